"""DP-LDM, public stages at 32x32: autoencoder and latent model of ImageNet.

arXiv 2305.15759; docs/latent_diffusion.md says what of the settings is the authors'.

    python -m dpdm_jax.main --config=configs/imagenet_32_ldm_public.py
    python -m dpdm_jax.main --config=configs/imagenet_32_ldm_public.py:classes=0
"""

import ml_collections

from dpdm_jax.configs import base, emnist_ldm_public, imagenet_32

#: By classes for cifar10_ldm, and without for celeba_32_ldm.
VARIANTS = ("classes=1000", "classes=0")


def get_config(variant: str = "classes=1000") -> ml_collections.ConfigDict:
    """Returns the config of both stages."""
    classes = int(base.parse_variant(variant, VARIANTS).get("classes", "1000"))
    config = base.get_config()
    config.name = f"imagenet_32_ldm_public_{classes}"
    config.data = imagenet_32.get_config().data
    config.data.public = "ImageNet 32x32"
    config.data.num_classes = classes

    # From 32x32 pixels to 16x16 places of 3 numbers: 14,639,807 weights, the defaults.
    config.codec.name = "kl"
    # Two batches of 16 between updates, one epoch.
    config.codec.training.batch_size = 32
    config.codec.training.num_steps = 40_037
    config.codec.training.learning_rate = 1.44e-4
    config.codec.training.adversarial_start = 50_001

    if classes:
        # 90,290,563 weights, the defaults, beside 1,001 classes of 512.
        config.network.name = "latent_unet"
        config.network.latent_unet.null_row = True
    else:
        # 162,314,115 weights.
        config.network.name = "adm"
        config.network.adm.channel_multipliers = (1, 2, 4)
        config.network.adm.attention_factors = (4, 2, 1)
        config.network.adm.head_channels = 32
        config.network.adm.scale_shift = True
        config.network.adm.resample_in_blocks = True

    last = 0.0155 if classes else 0.0195
    emnist_ldm_public.with_process(config, 0.0015, last)
    config.train.batch_size = 200 if classes else 384
    config.train.learning_rate = 2e-4 if classes else 1.92e-4
    # Ours: the number of epochs was not found.
    config.train.epochs = 20
    config.checkpoint.every_steps = 2000
    config.log.every_steps = 100
    config.log.snapshot_every_steps = 20_000
    config.log.snapshot_per_class = 1 if classes else 64
    config.evaluate.metrics = ("fid",)
    return config
