"""Padded index batches to arrays of one static shape."""

from typing import NamedTuple

import numpy as np

from dpdm_jax.data.sources import Source
from dpdm_jax.errors import InputError

PADDING_INDEX = -1


class Batch(NamedTuple):
    """Examples of one batch.

    Attributes:
        images: uint8 [n, H, W, C]; zero where padded.
        labels: int32 [n]; zero where padded or unlabelled.
        is_padding: bool [n], True where there is no example.
    """

    images: np.ndarray
    labels: np.ndarray
    is_padding: np.ndarray


def load_batch(source: Source, indices: np.ndarray) -> Batch:
    """Reads the examples of a padded index array.

    Args:
        source: where from.
        indices: integers [n] in [0, len(source)), or -1 for padding.

    Returns:
        The batch, in the order of the indices.

    Raises:
        InputError: an index, or a label that the source returned, is out of range.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise InputError(
            f"indices are {indices.dtype} of shape {indices.shape}; "
            "allowed: integers of shape (n,)."
        )
    outside = (indices < PADDING_INDEX) | (indices >= len(source))
    if outside.any():
        raise InputError(
            f"an index is {indices[outside][0]}; allowed: 0 to {len(source) - 1}, or "
            f"{PADDING_INDEX} for padding."
        )
    is_padding = indices == PADDING_INDEX
    images = np.zeros((len(indices), *source.image_shape), np.uint8)
    labels = np.zeros(len(indices), np.int32)
    if not is_padding.all():
        images[~is_padding], found = source.examples(indices[~is_padding])
        _check_labels(found, source.num_classes)
        labels[~is_padding] = found
    return Batch(images, labels, is_padding)


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    # An unlabelled source says 0 for all, the one value it is allowed.
    outside = (labels < 0) | (labels >= max(num_classes, 1))
    if outside.any():
        raise InputError(
            f"a label is {labels[outside][0]}; allowed: 0 to {max(num_classes, 1) - 1}."
        )
