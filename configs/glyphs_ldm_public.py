"""Public stages of mnist_ldm_cpu: autoencoder and latent diffusion model of glyphs.

The method is DP-LDM's (arXiv 2305.15759); the networks are this project's, small enough
for two CPU cores. 60,000 digits in print are rendered from the fonts that come with
matplotlib, or from those of a folder.

    python -m dpdm_jax.main --config=configs/glyphs_ldm_public.py \
        --config.data.path=FONTS --config.data.public="characters of Debian's fonts"
"""

import ml_collections

from dpdm_jax.configs import base, glyphs_public


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of both stages, the autoencoder's under ``codec.training``."""
    base.parse_variant(variant, ())
    config = base.get_config()
    config.name = "glyphs_ldm_public"
    config.data = glyphs_public.get_config().data

    # From 28x28 pixels to 7x7 places of 4 numbers: 292,005 weights.
    config.codec.name = "kl"
    config.codec.kl.base_channels = 32
    config.codec.kl.channel_multipliers = (1, 1, 1)
    config.codec.kl.num_res_blocks = 1
    config.codec.kl.attention_factors = ()
    config.codec.kl.inner_channels = 4
    config.codec.kl.latent_channels = 4
    config.codec.training.num_steps = 4000
    config.codec.training.learning_rate = 5e-4
    # Strokes on black are sharp enough without.
    config.codec.training.adversarial_weight = 0.0

    # 356,004 weights; attention to the class in 6 blocks.
    config.network.name = "latent_unet"
    config.network.latent_unet.base_channels = 32
    config.network.latent_unet.channel_multipliers = (1,)
    config.network.latent_unet.attention_factors = (1,)
    config.network.latent_unet.num_heads = 2
    config.network.latent_unet.context_width = 32

    # DP-LDM's schedule for MNIST.
    config.diffusion.parameterization = "ddpm"
    config.diffusion.noise_levels = "time_mixture"
    config.diffusion.ddpm.schedule = "ldm"
    config.diffusion.ddpm.beta_first = 0.0015
    config.diffusion.ddpm.beta_last = 0.0155
    config.diffusion.noise_multiplicity = 1
    config.diffusion.label_dropout = 0.0

    config.train.batch_size = 128
    config.train.num_steps = 8000
    config.train.learning_rate = 1e-3
    config.train.warmup_steps = 200
    config.train.ema_decay = 0.999
    # So many noisy latents at once: what they need stays in a core's cache.
    config.train.engine_microbatch_size = 32
    config.checkpoint.every_steps = 1000
    config.log.every_steps = 100
    config.log.snapshot_every_steps = 2000

    config.sampler.name = "heun"
    config.sampler.num_steps = 18
    config.sampler_presets = ml_collections.ConfigDict()
    config.sample.num_images = 10_000
    config.sample.batch_size = 500
    config.sample.labels = "balanced"
    config.evaluate.metrics = ("fid_lenet", "cnn")
    config.release.dtype = "float16"
    return config
