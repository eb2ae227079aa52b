"""Images in parts: files of many images each, which survive an interruption."""

import logging
import pathlib

import numpy as np

from dpdm_jax import files, processes
from dpdm_jax.progress import progress_bar
from dpdm_jax.sampling import images
from dpdm_jax.sampling.maker import Maker

_log = logging.getLogger(__name__)

#: Images in one part: what an interruption can cost.
PART_SIZE = 1000


class Parts:
    """The images of a maker in a folder, made once and read as needed."""

    def __init__(self, folder: pathlib.Path, maker: Maker):
        """Opens a folder, which may be missing yet.

        Args:
            folder: of the parts.
            maker: of the images.
        """
        self._folder = folder
        self._maker = maker
        self._size = PART_SIZE
        self._num_made = 0

    def make(self, count: int) -> None:
        """Makes the parts that are missing; several processes call it together.

        Args:
            count: of the first images that are wanted, at most all.

        Raises:
            InputError: there is no room for them, or a pixel is not finite.
        """
        total = self._maker.asked.num_images
        stop = min(-(-count // self._size) * self._size, total)
        with progress_bar(
            "sampling", stop, done=self._num_made, shown=processes.is_first()
        ) as progress:
            for start in range(self._num_made, stop, self._size):
                indices = np.arange(start, min(start + self._size, total))
                path = self._path(start)
                if is_there(path, len(indices)):
                    progress.update(len(indices))
                else:
                    self._write(path, self._maker.make(indices, progress.update))
                self._num_made = start + len(indices)

    def images(self, first: int, count: int) -> "StoredImages":
        """Returns some of the images that are made.

        Args:
            first: index of the first of them.
            count: how many.
        """
        return StoredImages(self, first, count)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Reads images.

        Args:
            indices: int [n], of images that are made.

        Returns:
            uint8 [n, h, w, c].
        """
        found = np.empty((len(indices), *self.image_shape), np.uint8)
        starts = indices // self._size * self._size
        for start in np.unique(starts):
            chosen = starts == start
            with np.load(self._path(start)) as archive:
                found[chosen] = archive["images"][indices[chosen] - start]
        return found

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        return self._maker.asked.image_shape

    def _path(self, start: int) -> pathlib.Path:
        last = min(start + self._size, self._maker.asked.num_images) - 1
        return self._folder / f"{start:07d}_{last:07d}.npz"

    def _write(self, path: pathlib.Path, made: np.ndarray) -> None:
        def write() -> None:
            files.make_folder(path.parent)
            images.write_npz(path, made, None)

        processes.from_first(write)


class StoredImages:
    """Images in parts that are used like an array, uint8 [n, h, w, c]."""

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Parts, first: int, count: int):
        """Chooses images; see ``Parts.images``."""
        self._parts = parts
        self._first = first
        self.shape = (count, *parts.image_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """Reads the images [n, h, w, c] of indices, int [n]."""
        return self._parts.read(self._first + indices)


def is_there(path: pathlib.Path, count: int) -> bool:
    """Whether a file holds just as many images; several processes ask together."""
    return processes.from_first(lambda: _read_images(path, count) is not None)


def _read_images(path: pathlib.Path, count: int) -> np.ndarray | None:
    try:
        with np.load(path) as archive:
            found = archive["images"]
    except FileNotFoundError:
        return None
    except Exception as e:  # a damaged zip raises many kinds
        _log.warning("%s cannot be read (%s) and is made anew.", path, e)
        return None
    return found if len(found) == count else None
