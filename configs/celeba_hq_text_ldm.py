"""DP-LDM on CelebA-HQ at 256x256 by captions, delta 1e-5: attention and text encoder.

arXiv 2305.15759; docs/latent_diffusion.md says what of the settings is the authors',
who ship those of epsilon 10. It begins with latent diffusion's released text model of
1.45 B weights (txt2img-f8-large), autoencoder included: put it where initial.weights
says, and BERT's vocab.txt beside it.

    python -m dpdm_jax.main --config=configs/celeba_hq_text_ldm.py:eps=10 \
        --config.data.path=FOLDER --config.sample.prompts=PROMPTS.txt

FOLDER has the images and metadata.csv or metadata.jsonl with their captions.
"""

import ml_collections

from dpdm_jax.configs import base, celeba_hq_ldm

VARIANTS = ("eps=1", "eps=5", "eps=10")


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a budget."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "10")
    config = celeba_hq_ldm.get_config(f"eps={epsilon}")
    fresh = base.get_config()
    config.name = f"celeba_hq_text_ldm_eps{epsilon}"
    config.data.num_classes = -1
    config.data.condition = "captions"
    config.data.captions.length = 77
    config.data.captions.vocabulary = "vocab.txt"

    # From 256x256 pixels to 32x32 places of 4 numbers: 83,653,863 weights.
    config.codec = fresh.codec
    config.codec.name = "kl"
    config.codec.kl.channel_multipliers = (1, 2, 4, 4)
    config.codec.kl.attention_factors = ()
    config.codec.kl.inner_channels = 4
    config.codec.kl.latent_channels = 4
    config.codec.kl.scale_factor = 0.18215
    config.codec.weights = "txt2img-f8-large.ckpt"
    config.codec.public = "OpenImages"
    # 872,300,484 weights beside 542.9 M of the text encoder.
    config.network = fresh.network
    config.network.name = "latent_unet"
    config.network.latent_unet.base_channels = 320
    config.network.latent_unet.channel_multipliers = (1, 2, 4, 4)
    config.network.latent_unet.attention_factors = (4, 2, 1)
    config.network.latent_unet.context_width = 1280
    config.network.latent_unet.remat = True
    config.network.text_transformer.remat = True
    config.initial.weights = "txt2img-f8-large.ckpt"
    config.initial.public = "LAION-400M"
    config.initial.label_table = "reuse"

    config.diffusion.ddpm.beta_first = 0.00085
    config.diffusion.ddpm.beta_last = 0.012
    config.privacy.l2_clip_norm = 1e-3
    config.train.batch_size = 256
    config.train.epochs = 10
    config.train.learning_rate = 2.56e-7
    # The authors divide by 3.
    config.train.adam_eps = 1e-8 * 3 / 256
    config.sampler.ddim_eta.eta = 0.0
    # A scale of 5 in the authors' way of counting.
    config.sampler.guidance = 4.0
    return config
