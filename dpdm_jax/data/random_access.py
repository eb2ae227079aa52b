"""Records that lie in files and are decoded as they are asked for."""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from dpdm_jax import padding
from dpdm_jax.conditions import of_classes
from dpdm_jax.data.sources import Example, image_spec
from dpdm_jax.data.transforms import format_shape
from dpdm_jax.errors import InputError


class Records(Protocol):
    """Dictionaries by number, as ``tfds.data_source`` returns them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def __getitems__(self, indices: Sequence[int]) -> Sequence[dict[str, Any]]: ...


class RandomAccessSource:
    """A source over records; see ``Source``.

    Images are decoded and prepared as they are asked for, so memory holds none.
    """

    def __init__(
        self,
        records: Records,
        keys: tuple[str, str | None],
        prepare: Callable[[Any], np.ndarray],
        num_classes: int,
        first_label: int = 0,
    ):
        """Keeps the records and prepares the first one to learn the image shape.

        Args:
            records: not empty.
            keys: names of the image and the label feature; None without labels.
            prepare: makes uint8 [H, W, C] of what a record has for an image.
            num_classes: labels lie in [0, num_classes); 0 ignores them.
            first_label: what the records' labels count from.
        """
        self._records = records
        self._image_key, self._label_key = keys
        self._prepare = prepare
        self._first_label = first_label
        self.condition = of_classes(num_classes)
        shape = prepare(records[0][self._image_key]).shape
        self.spec = image_spec(shape, self.condition)
        self._pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def __len__(self) -> int:
        return len(self._records)

    def examples(self, indices: np.ndarray) -> Example:
        """Reads examples; see ``Source.examples``.

        Raises:
            InputError: a label is out of range, or images have several shapes.
        """
        found = padding.blank_examples(self.spec, len(indices))
        rows = self._records.__getitems__([int(i) for i in indices])
        prepared = self._pool.map(self._prepare, [row[self._image_key] for row in rows])
        for i, image in enumerate(prepared):
            found["image"][i] = same_shape(image, self.spec["image"].shape)
        if self._label_key:
            labels = np.array([row[self._label_key] for row in rows])
            labels = labels - self._first_label
            self._check_labels(labels)
            found["condition"][:] = labels
        return found

    def _check_labels(self, labels: np.ndarray) -> None:
        most = self.condition.num_classes or 0
        if ((labels < 0) | (labels >= most)).any():
            first = self._first_label
            raise InputError(
                f"there is a label that is none of the {most} classes; allowed: "
                f"{first} to {most + first - 1}, by data.num_classes."
            )


def same_shape(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an image, if it is of the first one's shape.

    Raises:
        InputError: it is of another.
    """
    if image.shape != shape:
        raise InputError(
            f"an image is {format_shape(image.shape)} but the first one is "
            f"{format_shape(shape)}; allowed: one shape, which data.crop and "
            "data.image_size can give."
        )
    return image
