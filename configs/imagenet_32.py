"""DPDM on ImageNet at 32x32, class-conditional, eps 10, delta 7e-7.

arXiv 2210.09929, official config (no result found in the paper's text). Labels come
with TFDS's ``imagenet_resized``; its ``downsampled_imagenet`` has none.

    python -m dpdm_jax.main --config=configs/imagenet_32.py
"""

import ml_collections

from dpdm_jax.configs import base

VARIANTS = ("eps=10",)


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config."""
    base.parse_variant(variant, VARIANTS)
    config = base.get_config()
    config.name = "imagenet_32_eps10"
    config.data.tfds.name = "imagenet_resized/32x32"
    config.data.test_split = "validation"
    config.data.num_examples = 1_281_167
    config.data.image_size = 32
    config.data.channels = 3
    config.data.num_classes = 1000
    config.network.ncsnpp.attention_resolutions = (8, 16)
    config.diffusion.noise_multiplicity = 8
    config.privacy.delta = 7e-7
    config.train.batch_size = 2048
    config.train.epochs = 100
    config.evaluate.metrics = ("fid",)
    return config
