"""Captions beside images: read by a source, and made tokens here for all of them.

A caption belongs to its image: both are one private record.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from dpdm_jax.conditions import Tokens, tokenizers
from dpdm_jax.conditions.tokenizers import Tokenizer
from dpdm_jax.data.sources import ConditionedSource, MemorySource, Source
from dpdm_jax.errors import InputError, listed

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Settings(tokenizers.Settings):
    """``config.data.captions``.

    Attributes:
        column: of a table (metadata.csv, metadata.jsonl, Parquet) that has them.
    """

    column: str = "text"


@dataclasses.dataclass(frozen=True)
class Captions:
    """What ``data.condition = "captions"`` makes of a source.

    Attributes:
        settings: of the captions.
        tokenizer: as they say.
    """

    settings: Settings
    tokenizer: Tokenizer

    @property
    def condition(self) -> Tokens:
        """Of the examples."""
        return self.tokenizer.condition

    def of(self, source: Source, texts: Sequence[str]) -> Source:
        """Returns a source whose examples have captions for their condition.

        Args:
            source: of the images.
            texts: their captions.

        Raises:
            InputError: they are not as many.
        """
        if len(texts) != len(source):
            raise InputError(
                f"the data has {len(texts)} captions and {len(source)} images; "
                "allowed: one for each."
            )
        tokens, is_cut = self.tokenizer(texts)
        if is_cut.any():
            _log.warning(
                "Private: %d of %d captions are longer than data.captions.length = %d "
                "tokens, and cut.",
                is_cut.sum(),
                len(texts),
                self.settings.length,
            )
        if isinstance(source, MemorySource):
            return source.with_condition(tokens, self.condition)
        return ConditionedSource(source, tokens, self.condition)


def build(settings: Settings) -> Captions:
    """Builds what reads captions, see ``tokenizers.build``."""
    return Captions(settings, tokenizers.build(settings))


def complete(texts: Sequence[object], names: Sequence[str], where: str) -> list[str]:
    """Returns the captions, if every image has one.

    Args:
        texts: captions; None, or nothing but blanks, where there is none.
        names: what messages call the images.
        where: the captions are looked for, for messages.

    Raises:
        InputError: some are missing, which says how many and names them; or one is no
            text.
    """
    for name, text in zip(names, texts, strict=True):
        if not isinstance(text, str | None):
            raise InputError(
                f"{name} has the caption {str(text)[:80]!r} in {where}; allowed: a "
                "text."
            )
    found = [text for text in texts if isinstance(text, str) and text.strip()]
    if len(found) == len(texts):
        return found
    missing = [
        name
        for name, text in zip(names, texts, strict=True)
        if not isinstance(text, str) or not text.strip()
    ]
    raise InputError(
        f"{len(missing)} of {len(texts)} images have no caption in {where} "
        f"({listed(missing)}); allowed: a caption for each."
    )


def by_label(texts: Sequence[str], labels: np.ndarray) -> Mapping[str, int]:
    """Returns the label that stands beside a caption, where it is always the same.

    Args:
        texts: captions of n images.
        labels: int [n], of the same images.
    """
    found: dict[str, set[int]] = {}
    for text, label in zip(texts, labels.tolist(), strict=True):
        found.setdefault(text.strip(), set()).add(label)
    return {text: min(all_) for text, all_ in found.items() if len(all_) == 1}
