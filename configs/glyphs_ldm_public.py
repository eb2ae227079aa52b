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

    # 332,260 weights: a transformer of the 49 places, in four blocks. U-Nets of latent
    # diffusion have 32 groups in every normalisation, too many for so few channels.
    config.network.name = "transformer"
    config.network.patch_size = 1
    config.network.transformer.hidden_width = 96
    config.network.transformer.num_blocks = 4
    config.network.transformer.condition_gain = 5.0

    # Latents have a standard deviation of 1.
    config.diffusion.sigma_data = 1.0
    config.diffusion.log_normal.p_mean = 0.0
    config.diffusion.noise_multiplicity = 1
    config.diffusion.label_dropout = 0.0

    config.train.batch_size = 128
    config.train.num_steps = 6000
    config.train.learning_rate = 2e-3
    config.train.schedule = "cosine"
    config.train.warmup_steps = 200
    config.train.ema_decay = 0.999
    # So many noisy latents at once: what they need stays in a core's cache.
    config.train.engine_microbatch_size = 16
    config.checkpoint.every_steps = 1000
    config.log.every_steps = 100
    config.log.snapshot_every_steps = 2000

    config.sampler.name = "heun"
    config.sampler.num_steps = 18
    config.sampler.sigma_min = 0.05
    config.sampler.sigma_max = 40.0
    config.sampler_presets = ml_collections.ConfigDict()
    config.sample.num_images = 10_000
    config.sample.batch_size = 500
    config.sample.labels = "balanced"
    config.evaluate.metrics = ("fid_lenet", "cnn")
    config.release.dtype = "float16"
    return config
