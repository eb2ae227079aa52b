"""Public stage of digits_text: captioned figures in fonts at 8x8, minutes on a laptop.

Captions are made of the same few public wordings as those of the private digits.

    python -m dpdm_jax.main --mode=train --config=configs/digits_text_public.py
"""

import ml_collections

from dpdm_jax.configs import base, digits_public


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config: that of digits_public, by captions."""
    base.parse_variant(variant, ())
    config = digits_public.get_config()
    config.name = "digits_text_public"
    config.data.condition = "captions"
    config.data.captions.length = 48
    config.train.num_steps = 4000
    return config
