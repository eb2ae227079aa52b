"""DP-LDM, public stages at 64x64: autoencoder and latent model of ImageNet.

arXiv 2305.15759; docs/latent_diffusion.md says what of the settings is the authors'.

    python -m dpdm_jax.main --config=configs/imagenet_64_ldm_public.py
"""

import ml_collections

from dpdm_jax.configs import base, imagenet_32_ldm_public


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of both stages; there are no variants."""
    base.parse_variant(variant, ())
    config = imagenet_32_ldm_public.get_config("classes=0")
    config.name = "imagenet_64_ldm_public"
    config.data.tfds.name = "imagenet_resized/64x64"
    config.data.public = "ImageNet 64x64"
    config.data.image_size = 64

    # From 64x64 pixels to 32x32 places of 3 numbers: 29,935,359 weights.
    config.codec.kl.base_channels = 192
    config.codec.kl.attention_factors = ()
    config.codec.training.batch_size = 16
    config.codec.training.num_steps = 80_073
    config.codec.training.learning_rate = 1.6e-5

    # 72,172,803 weights.
    config.network.adm.base_channels = 128
    config.network.adm.head_channels = 0
    config.network.adm.num_heads = 8

    config.train.batch_size = 75
    config.train.learning_rate = 7.5e-5
    # The authors have no average here.
    config.train.ema_decay = 0.0
    return config
