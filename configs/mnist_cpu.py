"""MNIST on two CPU cores: a small mixer, few steps, delta 1e-5.

experiments/mnist_cpu says what it reaches, and on what machine.

    python -m dpdm_jax.main --config=configs/mnist_cpu.py:eps=10
"""

import ml_collections

from dpdm_jax.configs import mnist

VARIANTS = mnist.VARIANTS

#: By epsilon: noise draws per image, nominal batch size, steps. The smaller the budget,
#: the more is an image's gradient worth beside the time that it takes.
BUDGETS = {0.2: (16, 1000, 120), 1.0: (16, 1500, 120), 10.0: (2, 4000, 500)}

#: By epsilon: principal components of each class and noise multiplier of its moments,
#: where they are measured. That makes the steps' noise larger by 7 % at epsilon 10, by
#: 18 % at 1. At 0.2 it nearly doubles, and images are worse.
MOMENTS = {1.0: (12, 10.0), 10.0: (32, 2.0)}


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a budget."""
    config = network_alone(variant)
    if config.privacy.epsilon in MOMENTS:
        config.diffusion.parameterization = "edm_moments"
        components, noise_multiplier = MOMENTS[config.privacy.epsilon]
        config.diffusion.edm_moments.components = components
        config.privacy.moments_noise_multiplier = noise_multiplier
    return config


def network_alone(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a network that begins without moments of the classes."""
    config = mnist.get_config(variant)
    config.name = config.name.replace("mnist", "mnist_cpu")

    config.network.name = "mixer"
    config.network.patch_size = 4
    config.network.mixer.hidden_width = 64
    config.network.mixer.num_blocks = 4
    config.network.mixer.condition_gain = 5.0
    config.network.low_frequencies.count = 14
    config.network.low_frequencies.condition_gain = 5.0

    config.diffusion.parameterization = "edm_dct"
    config.diffusion.noise_levels = "log_normal"
    config.diffusion.sigma_data = 0.4
    # Bright strokes on black. Assumed, not measured.
    config.diffusion.edm_dct.mean_data = -0.75
    # The shape of a digit is decided at larger noise than a photograph's details.
    config.diffusion.log_normal.p_mean = 0.3
    config.diffusion.stratified = True

    draws, batch_size, steps = BUDGETS[config.privacy.epsilon]
    config.diffusion.noise_multiplicity = draws
    # Below nearly every gradient norm: it sets the scale of signal and noise alike.
    config.privacy.l2_clip_norm = 0.3
    config.train.batch_size = batch_size
    config.train.num_steps = steps
    config.train.microbatch_size = 100
    config.train.engine = "scan"
    # Sixteen noisy images at once: what they need stays in a core's cache.
    config.train.engine_microbatch_size = max(1, 16 // draws)
    config.train.learning_rate = 4e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 20
    config.train.ema_decay = 0.99
    config.checkpoint.every_steps = 50
    config.log.snapshot_every_steps = 100

    config.sampler.name = "heun"
    config.sampler.num_steps = 18
    config.sampler.sigma_min = 0.1
    config.sampler.sigma_max = 40.0
    config.sampler.guidance = 0.0
    config.sampler_presets = ml_collections.ConfigDict()
    config.sample.num_images = 10_000
    config.sample.batch_size = 500
    config.sample.labels = "balanced"
    config.evaluate.metrics = ("fid_lenet", "cnn")
    config.release.dtype = "float16"
    return config
