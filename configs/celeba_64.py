"""DPDM on CelebA at 64x64, unconditional, eps 10, delta 1e-6.

arXiv 2210.09929, figures only (no FID found), on eight A100.

    python -m dpdm_jax.main --config=configs/celeba_64.py
"""

import ml_collections

from dpdm_jax.configs import base, celeba_32

VARIANTS = ("eps=10",)


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config: that of 32x32 with a fourth resolution and K = 8."""
    base.parse_variant(variant, VARIANTS)
    config = celeba_32.get_config("eps=10")
    config.name = "celeba_64_eps10"
    config.data.image_size = 64
    config.network.ncsnpp.channel_multipliers = (1, 1, 2, 2)
    config.diffusion.noise_multiplicity = 8
    return config
