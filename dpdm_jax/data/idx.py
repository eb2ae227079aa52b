"""Folders of IDX files, the format of MNIST and its relatives.

Format: http://yann.lecun.com/exdb/mnist (two zero bytes, a type byte, the number of
dimensions, each dimension as a big-endian uint32, then the values).
"""

import gzip
import math
import struct
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from dpdm_jax.data import paths
from dpdm_jax.data.sources import ArraySource, DataSettings, Source, split_name
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason

_UINT8 = 8
_PIECE = 2**20  # bytes read at once


def load(config: DataSettings, split: str) -> Source:
    """Loads ``PREFIX-images-idx3-ubyte`` and ``PREFIX-labels-idx1-ubyte``.

    Either file may carry ``.gz``; the plain one is taken if both exist. PREFIX is
    data.train_split or data.test_split, where "test" stands for the usual "t10k".

    Args:
        config: reads path, num_classes, train_split, test_split and what
            ``Preparation`` does. The labels file is not needed if num_classes is 0.
        split: "train" or "test".

    Returns:
        The source, images [N, H, W, 1] unless the config asks for others.

    Raises:
        InputError: a file is missing, damaged, or not of this format.
    """
    folder = paths.existing_folder(config.path, "a folder with IDX files")
    name = split_name(config, split)
    images = read_images(folder, name)
    source = ArraySource(
        images[..., None],
        None if config.num_classes == 0 else read_labels(folder, name),
        config.num_classes,
        name=f"{folder} ({_prefix(name)})",
    )
    return source.prepared(Preparation.from_config(config))


def read_images(folder: Path, split: str) -> np.ndarray:
    """Reads a split's images, uint8 [N, H, W]; see ``load``."""
    return read_idx(_find(folder, f"{_prefix(split)}-images-idx3-ubyte"), num_dims=3)


def read_labels(folder: Path, split: str) -> np.ndarray:
    """Reads a split's labels, uint8 [N]; see ``load``."""
    return read_idx(_find(folder, f"{_prefix(split)}-labels-idx1-ubyte"), num_dims=1)


def _prefix(split: str) -> str:
    return "t10k" if split == "test" else split


def read_idx(path: Path, num_dims: int) -> np.ndarray:
    """Reads one IDX file of unsigned bytes.

    Args:
        path: the file; a name that ends in ``.gz`` is decompressed.
        num_dims: the number of dimensions it must have.

    Returns:
        uint8 array with ``num_dims`` dimensions.

    Raises:
        InputError: the file cannot be read or is not exactly such a file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            shape = _read_header(path, file, num_dims)
            values = _read_values(path, file, shape)
        return np.frombuffer(values, np.uint8).reshape(shape)
    except InputError:
        raise
    except Exception as error:  # of the system, of zlib, or of memory
        raise InputError(
            f"{path} cannot be read ({reason(error)}); allowed: an undamaged IDX file "
            "that fits into memory."
        ) from error


def _read_header(path: Path, file: BufferedIOBase, num_dims: int) -> tuple[int, ...]:
    magic = bytes((0, 0, _UINT8, num_dims))
    header = file.read(4 + 4 * num_dims)
    if header[:4] != magic or len(header) < 4 + 4 * num_dims:
        raise InputError(
            f"{path} starts with bytes {header[:4].hex() or '(none)'}; allowed: "
            f"{magic.hex()}, an IDX file of unsigned bytes in {num_dims} dimension(s)."
        )
    return struct.unpack(f">{num_dims}I", header[4:])


def _read_values(path: Path, file: BufferedIOBase, shape: tuple[int, ...]) -> bytearray:
    """Reads what the header announces; takes memory only for what is there."""
    values, announced = bytearray(), math.prod(shape)
    # To the end, where gzip compares its checksum, but not without one.
    while len(values) <= announced and (piece := file.read(_PIECE)):
        values += piece
    if len(values) != announced:
        held = f"more than {announced}" if len(values) > announced else len(values)
        raise InputError(
            f"{path} holds {held} values; allowed: exactly the {announced} that its "
            f"header announces, {shape}."
        )
    return values


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InputError(
        f"{folder} has no file {name} or {name}.gz; allowed: an IDX folder such as "
        "MNIST's, see data.path, data.train_split and data.test_split."
    )
