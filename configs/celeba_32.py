"""DPDM on CelebA at 32x32, unconditional, delta 1e-6.

arXiv 2210.09929, table 4: FID 71.8 / 21.1 at eps 1 / 10, on eight A100. The official
train split, cropped to the central square of side 178 and resized with Lanczos.

    python -m dpdm_jax.main --config=configs/celeba_32.py:eps=10
"""

import ml_collections

from dpdm_jax.configs import base

VARIANTS = ("eps=1", "eps=10")


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config of a published variant."""
    epsilon = base.parse_variant(variant, VARIANTS).get("eps", "10")
    config = base.get_config()
    config.name = f"celeba_32_eps{epsilon}"
    config.data.tfds.name = "celeb_a"
    config.data.num_examples = 162_770
    config.data.image_size = 32
    config.data.channels = 3
    config.data.num_classes = 0
    config.data.crop = "celeba"
    config.network.ncsnpp.attention_resolutions = (8, 16)
    config.diffusion.label_dropout = 0.0
    config.privacy.epsilon = float(epsilon)
    config.privacy.delta = 1e-6
    config.train.batch_size = 2048
    config.evaluate.metrics = ("fid",)
    return config
