"""DP fine-tuning: Camelyon17 (WILDS) from ImageNet's weights, eps 10, delta 3e-6.

arXiv 2302.13861: 91.1 % by a classifier trained on samples alone (abstract; epsilon and
delta by a later paper that quotes it). docs/dp_finetuning.md says of each figure where
it is from.

    python -m dpdm_jax.main --config=configs/camelyon17_finetune.py \
        --config.initial.weights=runs/imagenet_32_public \
        --config.data.path=data/camelyon17_v1.0

The unit is one patch, as in the paper. A patient has thousands:
--config.data.group=patient --config.data.num_examples=0 protects them, with a
--config.train.batch_size of at most as many as there are, and they are few
(docs/people.md).
"""

import ml_collections

from dpdm_jax.configs import base, cifar10_finetune

VARIANTS = ("eps=10",)


def get_config(variant: str = "eps=10") -> ml_collections.ConfigDict:
    """Returns the config: that of CIFAR-10 but for data and delta."""
    base.parse_variant(variant, VARIANTS)
    config = cifar10_finetune.get_config("eps=10")
    config.name = "camelyon17_finetune_eps10"
    config.data = base.get_config().data
    config.data.source = "camelyon17"
    config.data.num_examples = 302_436
    # Section 5 of docs/dp_finetuning.md; ours: whole patches, resized.
    # data.camelyon17.center=32 keeps what the label is about in place of that. The test
    # split "test" is the fifth hospital; "id_val" are patches of the first three.
    config.data.image_size = 32
    config.data.channels = 3
    config.data.num_classes = 2
    # Section 4.
    config.privacy.delta = 3e-6
    return config
