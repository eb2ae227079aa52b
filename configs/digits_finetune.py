"""Private digits from public glyphs: DP fine-tuning in minutes, eps 10, delta 1e-4.

scikit-learn's 8x8 digits. The method is that of arXiv 2302.13861; model and training
are this project's.

    python -m dpdm_jax.main --config=configs/digits_finetune.py \
        --config.initial.weights=runs/digits_public
"""

import ml_collections

from dpdm_jax.configs import base, digits


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config: that of digits with fewer, smaller steps."""
    base.parse_variant(variant, ())
    config = digits.get_config()
    config.name = "digits_finetune"
    config.initial.parent = "configs/digits_public.py"
    # Shorter than any gradient, each of which then counts as much.
    config.privacy.l2_clip_norm = 1e-3
    config.train.gradient_unit = "clip_norm"
    config.train.num_steps = 100
    # As the paper's; three times smaller than from random weights.
    config.train.learning_rate = 1e-3
    config.checkpoint.every_steps = 50
    config.log.snapshot_every_steps = 50
    return config
