"""The embedded default: scikit-learn's 8x8 digits at eps 10, delta 1e-4, on a laptop.

1,437 training and 360 test images. Minutes on two CPU cores.

    python -m dpdm_jax.main
"""

import ml_collections

from dpdm_jax.configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config; there are no variants."""
    base.parse_variant(variant, ())
    config = network_alone()
    # What the classes look like on average is asked for directly.
    config.diffusion.parameterization = "edm_moments"
    config.diffusion.edm_moments.components = 32
    config.privacy.moments_share = 0.7
    # Bright strokes on black. Assumed, not measured.
    config.diffusion.edm_dct.mean_data = -0.4
    # What is small in a digit is known from the moments.
    config.sampler.sigma_min = 0.2
    config.sampler.guidance = 0.1
    return config


def network_alone() -> ml_collections.ConfigDict:
    """Returns the config of a network that begins without moments of the classes."""
    config = base.get_config()
    config.name = "digits"
    config.data.source = "digits"
    config.data.num_examples = 1437
    config.data.image_size = 8
    config.data.channels = 1
    config.data.num_classes = 10

    # 53,184 weights: fewer weights gather less noise.
    config.network.name = "mlp"
    config.network.mlp.base_width = 16
    config.network.mlp.hidden_width = 128
    config.network.mlp.num_blocks = 1
    config.diffusion.noise_multiplicity = 8
    config.diffusion.stratified = True
    # The shape of a digit is decided at larger noise than a photograph's details.
    config.diffusion.log_normal.p_mean = -0.6

    config.privacy.delta = 1e-4
    config.train.batch_size = 719
    config.train.epochs = 200
    config.train.microbatch_size = 832
    config.train.learning_rate = 3e-3
    config.train.ema_decay = 0.99
    config.checkpoint.every_steps = 100
    config.log.snapshot_every_steps = 200

    # Below noise 1 the weights' own noise would only roughen the images.
    config.sampler.name = "heun"
    config.sampler.num_steps = 12
    config.sampler.sigma_min = 1.0
    config.sampler.sigma_max = 20.0
    config.sampler.guidance = 0.25
    config.sample.num_images = 4000
    config.sample.batch_size = 500
    config.sample.labels = "balanced"
    config.evaluate.metrics = ("fid_lenet", "alignment", "mlp", "memorisation")
    # A fifteenth of the images that the protocol's 3e-4 is made for.
    config.evaluate.learning_rate = 1e-3
    config.evaluate.dp_sgd.epochs = 60
    config.evaluate.dp_sgd.learning_rate = 1e-2
    return config
