"""What a format writes, and how it is called."""

import dataclasses
import pathlib
from typing import NamedTuple, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images with what they were asked for by.

    Attributes:
        images: uint8 [n, h, w, c], c = 1 or 3.
        labels: int32 [n]; None for images without classes.
        texts: the prompt of each, strings [n]; None for images without prompts.
        class_names: of all classes, in order of their labels.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    texts: np.ndarray | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


class Place(NamedTuple):
    """Which of the images a part has.

    Attributes:
        first: index of its first image.
        stop: index behind its last.
        number: of the part, from 0.
        parts: how many there are.
    """

    first: int
    stop: int
    number: int
    parts: int

    @property
    def name(self) -> str:
        """Of its file, without an ending, as Hugging Face's hub has it."""
        return f"train-{self.number:05d}-of-{self.parts:05d}"


class Format(Protocol):
    """A module of this package."""

    #: Images in one part, which is written at once.
    PART_SIZE: int
    #: Whether a data set is a handful of files, so that a release may list them.
    IS_COMPACT: bool

    def require(self) -> None:
        """Raises InputError if a package is missing."""
        ...

    def write(self, folder: pathlib.Path, whole: ImageSet, part: Place) -> None:
        """Writes the files of some images.

        Args:
            folder: of all parts; nobody reads it before all are there. Parts are
                written in order, and some once more behind an interruption.
            whole: all images.
            part: those that are written.

        Raises:
            InputError: they do not fit the format, or there is no room.
        """
        ...
