"""DPDM on CIFAR-10, class-conditional, eps 10, delta 1e-5.

arXiv 2210.09929, official config (no result found in the paper's text).

    python -m dpdm_jax.main --config=configs/cifar10.py
"""

import ml_collections

from dpdm_jax.configs import base

VARIANTS = ("eps=10",)


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config."""
    base.parse_variant(variant, VARIANTS)
    config = base.get_config()
    config.name = "cifar10_eps10"
    config.data.tfds.name = "cifar10"
    config.data.num_examples = 50_000
    config.data.image_size = 32
    config.data.channels = 3
    # The official loss says 1000 here, which sends dropped labels out of range.
    config.data.num_classes = 10
    config.network.ncsnpp.attention_resolutions = (16,)
    config.diffusion.noise_multiplicity = 8
    config.train.batch_size = 2048
    config.train.epochs = 500
    config.evaluate.metrics = ("fid",)
    return config
