"""Private digits from public glyphs: DP fine-tuning in minutes, eps 10, delta 1e-4.

scikit-learn's 8x8 digits. The method is that of arXiv 2302.13861; model and training
are this project's.

    python -m dpdm_jax.main --config=configs/digits_finetune.py

trains configs/digits_public.py first.
"""

import ml_collections

from dpdm_jax.configs import base, digits, digits_public


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config: that of digits with the public model and fewer steps."""
    base.parse_variant(variant, ())
    config = digits.network_alone()
    config.name = "digits_finetune"
    config.network = digits_public.get_config().network
    config.initial.parent = "configs/digits_public.py"
    # Shorter than any gradient, each of which then counts as much.
    config.privacy.l2_clip_norm = 1e-3
    config.train.gradient_unit = "clip_norm"
    config.train.num_steps = 200
    config.train.learning_rate = 4e-3
    # What is below noise 1 was learnt in public.
    config.sampler.sigma_min = 0.1
    config.sampler.guidance = 0.5
    config.checkpoint.every_steps = 100
    config.log.snapshot_every_steps = 100
    return config
