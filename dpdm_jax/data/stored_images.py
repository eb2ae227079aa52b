"""Encoded images that can be read one by one: all into memory, or as steps ask."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence

import numpy as np
import tqdm

from dpdm_jax.data.sources import (
    ArraySource,
    Example,
    Source,
    checked_labels,
    image_spec,
)
from dpdm_jax.data.transforms import format_shape
from dpdm_jax.errors import InputError
from dpdm_jax.padding import blank_examples

# Images that wait in their order at once: all of a large set would double its memory.
_PIECE = 512

#: Reads the image of a number, decoded and prepared, uint8 [H, W, C]; several threads
#: call it at once. Errors name the image.
Read = Callable[[int], np.ndarray]


def source_of(
    read: Read,
    labels: np.ndarray | None,
    num_classes: int,
    *,
    names: Sequence[object],
    name: str,
    on_demand: bool,
) -> Source:
    """Makes a source of images.

    Args:
        read: of the numbers 0 to ``len(names) - 1``.
        labels: integers [N], or None if there are none.
        num_classes: as ``ArraySource`` takes it.
        names: of N >= 1 images, for messages.
        name: what messages call the data.
        on_demand: ``data.on_demand``: images are read whenever they are asked for;
            otherwise all of them now.

    Returns:
        The source. Both give the same examples.

    Raises:
        InputError: an image cannot be read, or is of another shape than the first, or
            labels are not as described.
    """
    if on_demand:
        return StoredSource(read, labels, num_classes, names=names, name=name)
    images = _read_all(read, names)
    return ArraySource(images, labels, num_classes, name)


class StoredSource:
    """A source over images that lie in files; see ``Source``.

    Memory holds their labels, and what ``read`` knows of their places.
    """

    def __init__(
        self,
        read: Read,
        labels: np.ndarray | None,
        num_classes: int,
        *,
        names: Sequence[object],
        name: str,
    ):
        """Reads the first image to learn the shape; see ``source_of``."""
        self._read, self._names = read, names
        self.conditions, self.condition = checked_labels(
            labels, len(names), num_classes, name
        )
        self.is_counted = num_classes == -1
        self.spec = image_spec(read(0).shape, self.condition)
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self._names)

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples; see ``Source.examples``."""
        found = blank_examples(self.spec, len(indices))
        _read_into(found["image"], self._read, indices, self._names, self._pool)
        found["condition"][:] = self.conditions[indices]
        return found


def _read_all(read: Read, names: Sequence[object]) -> np.ndarray:
    """Reads all images into one array, uint8 [N, H, W, C]."""
    images = np.empty((len(names), *read(0).shape), np.uint8)
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm.tqdm(
            desc="reading images", total=len(names), leave=False, disable=None
        ) as progress,
    ):
        _read_into(images, read, np.arange(len(names)), names, pool, progress.update)
    return images


def _read_into(
    images: np.ndarray,
    read: Read,
    indices: np.ndarray,
    names: Sequence[object],
    pool: concurrent.futures.Executor,
    on_piece: Callable[[int], object] = lambda count: None,
) -> None:
    """Reads images of given numbers into an array [n, H, W, C]."""
    for start in range(0, len(indices), _PIECE):
        piece = indices[start : start + _PIECE].tolist()
        # Pillow decodes outside the interpreter's lock; map keeps the order.
        for i, image in enumerate(pool.map(read, piece)):
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"{names[piece[i]]} is {format_shape(image.shape)} but {names[0]} "
                    f"is {format_shape(images.shape[1:])}; allowed: one shape, which "
                    "data.crop, data.image_size and data.channels can give."
                )
            images[start + i] = image
        on_piece(len(piece))
