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
        shape = self.spec["image"].shape
        # Pillow decodes outside the interpreter's lock; map keeps the order.
        for i, image in enumerate(self._pool.map(self._read, indices.tolist())):
            if image.shape != shape:
                raise _other_shape(self._names, int(indices[i]), image.shape, shape)
            found["image"][i] = image
        found["condition"][:] = self.conditions[indices]
        return found


def _read_all(read: Read, names: Sequence[object]) -> np.ndarray:
    """Reads all images into one array, uint8 [N, H, W, C]."""
    first = read(0)
    images = np.empty((len(names), *first.shape), np.uint8)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = tqdm.tqdm(
            pool.map(read, range(len(names))),
            desc="reading images",
            total=len(names),
            leave=False,
            disable=None,
        )
        for i, image in enumerate(decoded):
            if image.shape != first.shape:
                raise _other_shape(names, i, image.shape, first.shape)
            images[i] = image
    return images


def _other_shape(
    names: Sequence[object], i: int, shape: tuple[int, ...], first: tuple[int, ...]
) -> InputError:
    return InputError(
        f"{names[i]} is {format_shape(shape)} but {names[0]} is {format_shape(first)}; "
        "allowed: one shape, which data.crop, data.image_size and data.channels can "
        "give."
    )
