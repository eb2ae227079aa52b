"""NumPy archives with arrays ``images`` and, if there are such, labels and captions."""

import os
import zipfile
from pathlib import Path

import numpy as np

from dpdm_jax.data import paths
from dpdm_jax.data.columns import Column
from dpdm_jax.data.sources import (
    ArraySource,
    DataSettings,
    MemorySource,
    split_name,
)
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason

# The record at the end of a zip file, which a comment of 2**16 bytes may follow.
_END = b"PK\5\6"
_END_SIZE = 22 + 2**16
_WANTED = "an .npz file, or a folder with train.npz and test.npz"


def load(config: DataSettings, split: str) -> MemorySource:
    """Loads ``images`` uint8 [N, H, W] or [N, H, W, C] and ``labels`` int [N].

    Args:
        config: reads path, num_classes, train_split, test_split and what
            ``Preparation`` does. The path is a folder that holds ``SPLIT.npz``, or one
            file, which then is the training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: the file is missing, damaged, or holds other arrays.
    """
    path = _find(config, split)
    labelled = config.num_classes != 0
    arrays = read_arrays(path, ("images", "labels") if labelled else ("images",))
    images = arrays["images"]
    if images.ndim == 3:
        images = images[..., None]
    labels = arrays.get("labels")
    source = ArraySource(images, labels, config.num_classes, name=str(path))
    return source.prepared(Preparation.from_config(config))


def column(config: DataSettings, name: str, split: str) -> Column:
    """Reads an array [N] of strings or integers, beside ``load``'s images.

    Args:
        config: see ``load``.
        name: of the array.
        split: "train" or "test".

    Raises:
        InputError: see ``load``; or the array is missing, or of another kind.
    """
    path = _find(config, split)
    found = read_arrays(path, (name,)).get(name)
    if found is None or found.dtype.kind not in "Uiu" or found.ndim != 1:
        holds = f"no array {name!r}"
        if found is not None:
            holds = f"an array {name!r} of {found.dtype} of shape {found.shape}"
        raise InputError(
            f"{path} holds {holds}; allowed: strings, or integers for groups, called "
            "so, one per image, as np.array(list) makes them."
        )
    names = [f"image {i}" for i in range(len(found))]
    return Column(found.tolist(), names, str(path))


def captions(config: DataSettings, name: str, split: str) -> Column:
    """Reads the array ``captions``; see ``column``, whose name is of a table."""
    del name
    return column(config, "captions", split)


def _find(config: DataSettings, split: str) -> Path:
    """Returns the archive of a split."""
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
    return path


def read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Reads those of the named arrays that an archive of images holds.

    Args:
        path: the file.
        names: arrays to read.

    Returns:
        The arrays by name, as stored.

    Raises:
        InputError: the file can't be read, or holds no ``images``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            held = [member.removesuffix(".npy") for member in archive.namelist()]
            _check_listing(archive)
            if "images" in held:
                return {
                    name: _read_array(archive, f"{name}.npy")
                    for name in names
                    if name in held
                }
    # A damaged archive raises many kinds, and a huge array one more.
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as an .npz archive ({reason(error)}); allowed: an "
            "undamaged one of plain arrays that fit into memory."
        ) from error
    raise InputError(
        f"{path} holds {', '.join(sorted(held)) or 'nothing'}; allowed: images, and "
        "labels if any."
    )


def _check_listing(archive: zipfile.ZipFile) -> None:
    """Raises BadZipFile if the list of members is damaged: labels could be missing."""
    for member in archive.infolist():
        archive.open(member).close()  # compares the two places that have its name
    file = archive.fp
    assert file is not None  # not closed
    file.seek(max(0, file.seek(0, os.SEEK_END) - _END_SIZE))
    end = file.read()
    at = end.rfind(_END) + 10
    stated = int.from_bytes(end[at : at + 2], "little")
    # zipfile goes by the size of the list alone; 0xFFFF stands for more.
    if stated not in (len(archive.infolist()), 0xFFFF):
        raise zipfile.BadZipFile(f"{stated} members are announced")


def _read_array(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as file:
        # Pickles are refused: they run code.
        array = np.lib.format.read_array(file, allow_pickle=False)
        # The checksum is compared at the end, which the array alone need not reach.
        if file.read(1):
            raise ValueError(f"{member} goes on after its array")
    return array
