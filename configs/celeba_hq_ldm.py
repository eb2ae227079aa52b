"""DP-LDM on CelebA-HQ at 256x256 by an attribute, delta 1e-5: attention and classes.

arXiv 2305.15759; docs/latent_diffusion.md says what of the settings is the authors',
who ship those of epsilon 1. It begins with latent diffusion's released model of
ImageNet at 256x256 (cin256-v2), autoencoder included: put it where initial.weights
says.

    python -m dpdm_jax.main --config=configs/celeba_hq_ldm.py:eps=1 \
        --config.data.path=FOLDER

FOLDER has sub-folders of images by the attribute, see the source image_folder.
"""

import ml_collections

from dpdm_jax.configs import base, emnist_ldm_public

VARIANTS = ("eps=1", "eps=5", "eps=10")


def get_config(variant: str = "eps=1") -> ml_collections.ConfigDict:
    """Returns the config of a budget."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "1")
    config = base.get_config()
    config.name = f"celeba_hq_ldm_eps{epsilon}"
    config.data.source = "image_folder"
    config.data.num_examples = 24_000
    config.data.image_size = 256
    config.data.channels = 3
    config.data.num_classes = 2

    # From 256x256 pixels to 64x64 places of 3 numbers: 55,322,782 weights.
    config.codec.name = "vq"
    config.codec.vq.channel_multipliers = (1, 2, 4)
    config.codec.vq.attention_factors = ()
    config.codec.weights = "cin256-v2.ckpt"
    config.codec.public = "OpenImages"
    # 400,920,579 weights beside those of the two classes, which are new.
    config.network.name = "latent_unet"
    config.network.latent_unet.base_channels = 192
    config.network.latent_unet.channel_multipliers = (1, 2, 3, 5)
    config.network.latent_unet.attention_factors = (8, 4, 2)
    config.network.latent_unet.num_heads = 1
    config.network.latent_unet.remat = True
    config.initial.weights = "cin256-v2.ckpt"
    config.initial.public = "ImageNet 256x256"
    config.initial.label_table = "random"
    config.train.trainable = "attention,condition"

    emnist_ldm_public.with_process(config, 0.0015, 0.0195)
    config.privacy.epsilon = float(epsilon)
    config.privacy.l2_clip_norm = 5e-4
    config.train.batch_size = 2048
    # Ours: the number of epochs was not found.
    config.train.epochs = 50
    config.train.learning_rate = 2.05e-4
    # The authors have no average here, and divide by 15.
    config.train.ema_decay = 0.0
    config.train.adam_eps = 1e-8 * 15 / 2048
    config.train.engine_microbatch_size = 1
    config.checkpoint.every_steps = 20
    config.log.snapshot_every_steps = 100
    config.evaluate.metrics = ("fid",)
    return config
