"""DP-LDM, public stages for MNIST: autoencoder and latent model of EMNIST's letters.

arXiv 2305.15759; docs/latent_diffusion.md says what of the settings is the authors'.

    python -m dpdm_jax.main --config=configs/emnist_ldm_public.py
"""

import ml_collections

from dpdm_jax.configs import base


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config of both stages; there are no variants."""
    base.parse_variant(variant, ())
    config = base.get_config()
    config.name = "emnist_ldm_public"
    config.data.public = "EMNIST letters"
    config.data.tfds.name = "emnist/letters"
    config.data.num_examples = 88_800
    config.data.image_size = 32
    config.data.channels = 3
    # TFDS counts letters from 1, and has images as the files do.
    config.data.tfds.first_label = 1
    config.data.tfds.transpose = True
    config.data.num_classes = 26

    # From 32x32 pixels to 4x4 places of 3 numbers: 102,553,535 weights.
    config.codec.name = "kl"
    config.codec.kl.channel_multipliers = (1, 2, 3, 5)
    config.codec.kl.attention_factors = (1, 2, 4)
    # Two batches of 50 between updates, 50 epochs.
    config.codec.training.batch_size = 100
    config.codec.training.num_steps = 44_400
    config.codec.training.learning_rate = 4.5e-4
    config.codec.training.adversarial_start = 50_001

    # 4,606,467 weights beside those of the classes. The authors have 2 heads here and 4
    # in the private stage, which is another function of the same weights.
    config.network.name = "latent_unet"
    config.network.latent_unet.base_channels = 64
    config.network.latent_unet.channel_multipliers = (1, 2)
    config.network.latent_unet.num_res_blocks = 1
    config.network.latent_unet.attention_factors = (1, 2)
    config.network.latent_unet.num_heads = 4
    config.network.latent_unet.scale_shift = True
    config.network.latent_unet.resample_in_blocks = True
    config.network.latent_unet.context_width = 5

    with_process(config, 0.0015, 0.0155)
    config.train.batch_size = 512
    config.train.epochs = 120
    config.train.learning_rate = 2.56e-3
    config.train.warmup_steps = 10_000
    config.evaluate.metrics = ("fid_lenet",)
    return config


def with_process(
    config: ml_collections.ConfigDict, beta_first: float, beta_last: float
) -> None:
    """Sets what all latent models of DP-LDM's authors have in common.

    Args:
        config: the whole config, which is changed.
        beta_first: of the schedule, which is linear in the roots of beta.
        beta_last: likewise.
    """
    config.diffusion.parameterization = "ddpm"
    config.diffusion.noise_levels = "time_mixture"
    config.diffusion.ddpm.schedule = "ldm"
    config.diffusion.ddpm.beta_first = beta_first
    config.diffusion.ddpm.beta_last = beta_last
    # One draw an image and visit, no guidance.
    config.diffusion.noise_multiplicity = 1
    config.diffusion.label_dropout = 0.0
    # AdamW as PyTorch has it.
    config.train.weight_decay = 0.01
    config.train.ema_decay = 0.9999

    config.sampler.name = "ddim_eta"
    config.sampler.ddim_eta.eta = 1.0
    config.sampler.clip_denoised = False
    config.sampler.grid = "ldm"
    config.sampler.num_steps = 200
    config.sampler_presets = ml_collections.ConfigDict()
    config.log.every_steps = 10
