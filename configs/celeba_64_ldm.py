"""DP-LDM on CelebA at 64x64, unconditional, delta 1e-6, from ImageNet: attention.

arXiv 2305.15759: FID 21.1 / 16.1 / 14.3 at epsilon 1 / 5 / 10. Its authors' settings
are the same for all three (docs/latent_diffusion.md). train.trainable=lora:8, 0.24 M
weights, is a later paper's choice.

    python -m dpdm_jax.main --config=configs/celeba_64_ldm.py:eps=1
"""

import ml_collections

from dpdm_jax.configs import base, celeba_32_ldm, celeba_64, imagenet_64_ldm_public

VARIANTS = ("eps=1", "eps=5", "eps=10")


def get_config(variant: str = "eps=1") -> ml_collections.ConfigDict:
    """Returns the config of a budget: the model of the public stages."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "1")
    config = celeba_32_ldm.get_config(variant)
    public = imagenet_64_ldm_public.get_config()
    config.name = f"celeba_64_ldm_eps{epsilon}"
    config.data = celeba_64.get_config().data
    config.codec.kl = public.codec.kl
    config.network = public.network
    config.initial.parent = "configs/imagenet_64_ldm_public.py"

    config.train.batch_size = 8192
    config.train.epochs = 70
    config.train.learning_rate = 8.19e-4
    # The authors have no average here, and divide by 50.
    config.train.ema_decay = 0.0
    config.train.adam_eps = 1e-8 * 50 / 8192
    return config
