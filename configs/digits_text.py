"""Text to image on a laptop: scikit-learn's 8x8 digits by captions, eps 10, delta 1e-4.

Captions are made of a few public wordings ("a handwritten three", "the digit 3"), and
images are asked for by others. Minutes on two CPU cores.

    python -m dpdm_jax.main --config=configs/digits_text.py

trains configs/digits_text_public.py first.
"""

import ml_collections

from dpdm_jax.configs import base, digits_finetune, digits_text_public
from dpdm_jax.data.digit_captions import WORDS

# Not among the captions that are trained on.
_PROMPTS = ("draw the digit {word}", "a tiny {word}", "the number {figure}")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """Returns the config: that of digits_finetune, by captions."""
    base.parse_variant(variant, ())
    config = digits_finetune.get_config()
    config.name = "digits_text"
    config.initial.parent = "configs/digits_text_public.py"
    public = digits_text_public.get_config()
    config.network = public.network
    config.data.condition = public.data.condition
    config.data.captions = public.data.captions

    config.sample.prompt = "\n".join(
        prompt.format(word=word, figure=figure)
        for figure, word in enumerate(WORDS)
        for prompt in _PROMPTS
    )
    config.evaluate.metrics = ("alignment", "mlp", "fid_lenet")
    config.evaluate.prompt_classes = tuple(
        figure for figure in range(len(WORDS)) for _ in _PROMPTS
    )
    return config
