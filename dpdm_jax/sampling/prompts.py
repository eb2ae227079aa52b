"""Prompts: the texts that images are asked for by.

The guarantee is about the weights. A private caption that is used as a prompt is
published with the images, and no epsilon covers it.
"""

import itertools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import ml_collections
import numpy as np

from dpdm_jax import data
from dpdm_jax.conditions import Condition, Tokens, is_file, tokenizers
from dpdm_jax.errors import InputError, reason
from dpdm_jax.user_paths import user_path

_log = logging.getLogger(__name__)

_WANTED = (
    "sample.prompts=FILE, a text file with a prompt a line, or sample.prompt='TEXT'"
)
_MISSING = (
    "sample.prompts and sample.prompt are empty and the model reads captions; allowed: "
    f"{_WANTED}."
)
#: What is said wherever prompts may have come from a file.
NOT_PROTECTED = (
    "Prompts are outside the guarantee, which is of the weights: if they are private "
    "captions, neither they nor the samples that name them may be published."
)


class Prompts(NamedTuple):
    """What images are asked for by.

    Attributes:
        texts: k >= 1 prompts.
        tokens: int32 [k, length], the same.
    """

    texts: tuple[str, ...]
    tokens: np.ndarray

    def of_images(self, count: int) -> np.ndarray:
        """Returns the number of each image's prompt: they take turns."""
        return np.arange(count, dtype=np.int32) % len(self.texts)


def is_text(condition: Condition) -> bool:
    """Whether examples of a condition are asked for by texts."""
    return isinstance(condition, Tokens)


def read(settings: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Reads the prompts of a config: of its file, and else of its text.

    Args:
        settings: ``config.sample``.

    Returns:
        Those that there are, in order; empty lines are none.

    Raises:
        InputError: there are both, or the file cannot be read or has none.
    """
    text, source = settings.prompt, "sample.prompt"
    if settings.prompts:
        source = settings.prompts
        if text:
            raise InputError(
                f"sample.prompts is {source!r} and sample.prompt {text[:80]!r}; "
                "allowed: one of them."
            )
        path = user_path("sample.prompts", source)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"sample.prompts is {source!r}, which cannot be read "
                f"({reason(error)}); allowed: {_WANTED}."
            ) from None
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if text and not found:
        raise InputError(f"{source} has no prompt; allowed: {_WANTED}.")
    return found


def required(settings: ml_collections.ConfigDict) -> tuple[str, ...] | None:
    """Reads the prompts of a model that reads text.

    Args:
        settings: ``config.sample``.

    Returns:
        At least one; None where ``sample.labels`` is a file of tokens in their place.

    Raises:
        InputError: as ``read``, or there is neither.
    """
    texts = read(settings)
    if not texts and is_file(settings.labels):
        return None
    if not texts:
        raise InputError(_MISSING)
    return texts


def of_model(config: ml_collections.ConfigDict, condition: Condition) -> Prompts | None:
    """Reads the prompts that a model is asked for images by.

    Args:
        config: the whole config; reads ``sample`` and, to make tokens, ``data``.
        condition: of the model.

    Returns:
        The prompts; None for a model that reads no text, or where ``sample.labels`` is
        a file of tokens.

    Raises:
        InputError: there are none for a model that reads text, or some for another;
            or they would be read in another way than the captions that it was trained
            on.
    """
    settings = config.sample
    if not is_text(condition):
        if read(settings):
            raise InputError(
                "sample.prompt or sample.prompts is set and the model was trained on "
                f"{condition}; allowed: none, and sample.labels."
            )
        return None
    texts = required(settings)
    # A person types a few prompts; a file may be that of the training captions.
    if texts is None or settings.prompts:
        _log.warning(NOT_PROTECTED)
    if texts is None:
        return None
    return tokenized(config, texts, condition)


def tokenized(
    config: ml_collections.ConfigDict, texts: Sequence[str], condition: Condition
) -> Prompts:
    """Makes tokens of prompts.

    Args:
        config: the whole config; reads ``data``.
        texts: the prompts.
        condition: of the model, which reads text.

    Raises:
        InputError: there are none; or the config makes other tokens than those of the
            captions that the model was trained on.
    """
    assert isinstance(condition, Tokens)
    if not texts:
        raise InputError(_MISSING)
    tokenizer = data.tokenizer(config.data)
    if tokenizer is None or tokenizer.condition != condition:
        other = "labels" if tokenizer is None else tokenizer.condition
        raise InputError(
            f"The model was trained on {condition}, and config.data is of {other}; "
            f"allowed: {tokenizers.describe(condition)}."
        )
    tokens, is_cut = tokenizer(texts)
    for text in itertools.compress(texts, is_cut):
        _log.warning(
            "The prompt %r is longer than %d tokens, and cut.", text, condition.length
        )
    return Prompts(tuple(texts), tokens)
