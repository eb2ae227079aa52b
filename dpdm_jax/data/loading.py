"""Padded index batches to arrays of one static shape."""

from typing import NamedTuple

import numpy as np

from dpdm_jax.data.sources import Example, Source
from dpdm_jax.errors import InputError
from dpdm_jax.padding import PADDING, blank_examples, fill_rows


class Batch(NamedTuple):
    """Examples of one batch.

    Attributes:
        examples: the tree of ``Source.spec``, of arrays [n, ...]; zero where padded.
        is_padding: bool [n], True where there is no example.
    """

    examples: Example
    is_padding: np.ndarray


def load_batch(source: Source, indices: np.ndarray) -> Batch:
    """Reads the examples of a padded index array.

    Args:
        source: where from.
        indices: integers [n] in [0, len(source)), or -1 for padding.

    Returns:
        The batch, in the order of the indices.

    Raises:
        InputError: an index, or a condition that the source returned, is out of range.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InputError(
            f"indices are {indices.dtype} of shape {indices.shape}; "
            "allowed: integers of shape (n,)."
        )
    outside = (indices < PADDING) | (indices >= len(source))
    if outside.any():
        raise InputError(
            f"an index is {indices[outside][0]}; allowed: 0 to {len(source) - 1}, or "
            f"{PADDING} for padding."
        )
    is_padding = indices == PADDING
    examples = blank_examples(source.spec, len(indices))
    if not is_padding.all():
        found = source.examples(indices[~is_padding])
        source.condition.check(found["condition"])
        fill_rows(examples, ~is_padding, found)
    return Batch(examples, is_padding)
