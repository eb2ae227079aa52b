"""NumPy archives with an array ``images`` and, if labelled, an array ``labels``."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dpdm_jax.data import paths
from dpdm_jax.data.sources import ArraySource, split_name
from dpdm_jax.errors import InputError

_WANTED = "an .npz file, or a folder with train.npz and test.npz"


def load(config: Any, split: str) -> ArraySource:
    """Loads ``images`` uint8 [N, H, W] or [N, H, W, C] and ``labels`` int [N].

    Args:
        config: data config; reads path, num_classes, train_split and test_split. The
            path is a folder that holds ``SPLIT.npz``, or one file, which then is the
            training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: the file is missing, damaged, or holds other arrays.
    """
    path = paths.existing(config.path, _WANTED)
    if path.is_dir():
        path = path / f"{split_name(config, split)}.npz"
        if not path.is_file():
            raise InputError(f"{path} is missing; data.path allows: {_WANTED}.")
    elif split == "test":
        raise InputError(
            f"data.path is {config.path!r}, one file of training images without a "
            "test split; allowed: a folder with train.npz and test.npz."
        )
    labelled = config.num_classes != 0
    arrays = read_arrays(path, ("images", "labels") if labelled else ("images",))
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    labels = arrays.get("labels")
    return ArraySource(images, labels, config.num_classes, name=str(path))


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads those of the named arrays that an archive holds, images at least.

    Args:
        path: the file.
        names: arrays to read.

    Returns:
        The arrays by name, as stored.

    Raises:
        InputError: the file can't be read, or holds no ``images``.
    """
    try:
        # Pickles are refused: they run code.
        with np.load(path, allow_pickle=False) as archive:
            if "images" in archive:
                return {name: archive[name] for name in names if name in archive}
            held = ", ".join(sorted(archive)) or "nothing"
    # A single array, as of np.save, is no context manager: TypeError.
    except (
        OSError,
        EOFError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path} cannot be read as an .npz archive of plain arrays: {error}."
        ) from error
    raise InputError(f"{path} holds {held}; allowed: images, and labels if any.")
