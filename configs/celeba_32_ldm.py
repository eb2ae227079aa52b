"""DP-LDM on CelebA at 32x32, unconditional, delta 1e-6, from ImageNet: attention.

arXiv 2305.15759; docs/latent_diffusion.md says what of the settings is the authors',
who ship those of epsilon 1.

    python -m dpdm_jax.main --config=configs/celeba_32_ldm.py:eps=1
"""

import ml_collections

from dpdm_jax.configs import base, celeba_32, imagenet_32_ldm_public

VARIANTS = ("eps=1", "eps=5", "eps=10")


def get_config(variant: str = "eps=1") -> ml_collections.ConfigDict:
    """Returns the config of a budget: the model of the public stages."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "1")
    config = imagenet_32_ldm_public.get_config("classes=0")
    config.name = f"celeba_32_ldm_eps{epsilon}"
    config.data = celeba_32.get_config().data
    config.codec.training = base.get_config().codec.training
    config.initial.parent = "configs/imagenet_32_ldm_public.py:classes=0"
    config.train.trainable = "attention"

    config.privacy.epsilon = float(epsilon)
    config.privacy.delta = 1e-6
    config.privacy.l2_clip_norm = 5e-4
    config.train.batch_size = 2048
    # Of an earlier version; that of the last one was not found.
    config.train.epochs = 50
    config.train.learning_rate = 1.02e-3
    # The authors count batches of 100, and divide by that.
    config.train.ema_decay = 0.998
    config.train.adam_eps = 1e-8 * 100 / 2048
    config.checkpoint.every_steps = 100
    config.log.every_steps = 10
    config.log.snapshot_every_steps = 500
    config.evaluate.metrics = ("fid",)
    return config
