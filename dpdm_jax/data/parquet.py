"""Parquet files with encoded images, as Hugging Face's data sets come."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpdm_jax.data import image_folder, paths
from dpdm_jax.data.captions import complete
from dpdm_jax.data.groups import complete_groups
from dpdm_jax.data.sources import ArraySource, DataSettings, split_name
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason

_END = ".parquet"
_WANTED = (
    "a .parquet file, or a folder with SPLIT.parquet or SPLIT-00000-of-00002.parquet "
    "and so on"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.data.parquet``: names of columns.

    Attributes:
        image: of PNG or JPEG files: their bytes, or a struct with a field ``bytes``.
        label: of integers; data without it is unlabelled.
    """

    image: str = "image"
    label: str = "label"


def load(settings: Settings, config: DataSettings, split: str) -> ArraySource:
    """Decodes every image of a split into one array.

    Args:
        settings: names of columns.
        config: reads path, num_classes, train_split, test_split and the fields of
            ``Preparation``. The path is a folder with the files of each split, whose
            rows follow in order of file name; or one file, which then is the
            training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: a file is missing or damaged, a column is missing or of another
            type, or an image is damaged or does not fit; the message names it.
    """
    rows = _read(config, split, settings.image, settings.label)
    content, labels = rows.columns[settings.image], None
    if config.num_classes != 0 and settings.label in rows.columns:
        labels = _integers(rows, settings.label)
    prepare = Preparation.from_config(config)

    def decode(row: int) -> np.ndarray:
        stored, name = content[row], rows.names[row]
        data = stored.get("bytes") if isinstance(stored, dict) else stored
        if not isinstance(data, bytes):
            raise InputError(
                f"{name} has no bytes of an image in the column {settings.image!r}; "
                "allowed: images that lie in the files themselves."
            )
        return image_folder.prepared(image_folder.decode(data, name), prepare, name)

    images = image_folder.decode_all(decode, range(len(content)), rows.names)
    return ArraySource(images, labels, config.num_classes, name=rows.path)


def captions(config: DataSettings, column: str, split: str) -> list[str]:
    """Reads the captions of ``load``'s images.

    Args:
        config: see ``load``.
        column: which has them.
        split: "train" or "test".

    Raises:
        InputError: see ``load``; or captions are missing.
    """
    rows = _read(config, split, column)
    texts = rows.columns[column]
    for name, text in zip(rows.names, texts, strict=True):
        if not isinstance(text, str | None):
            raise InputError(
                f"{name} has the {column} {str(text)[:80]!r}; allowed: a text."
            )
    return complete(texts, rows.names, f"the column {column!r} of {rows.path}")


def groups(config: DataSettings, column: str, split: str) -> list[str]:
    """Reads whose ``load``'s images are.

    Args:
        config: see ``load``.
        column: which has texts or integers.
        split: "train" or "test".

    Raises:
        InputError: see ``load``; or images have no value.
    """
    rows = _read(config, split, column)
    where = f"the column {column!r} of {rows.path}"
    return complete_groups(rows.columns[column], rows.names, column, where)


class _Rows(NamedTuple):
    """Rows of a split's files, one file after another.

    Attributes:
        path: of the files, for messages.
        names: of the rows, likewise.
        columns: those that were asked for, by name.
    """

    path: str
    names: list[str]
    columns: dict[str, list[Any]]


def _read(config: DataSettings, split: str, required: str, *others: str) -> _Rows:
    """Reads columns; ``others`` where all files have them."""
    library = _import_pyarrow()
    path = paths.existing(config.path, _WANTED)
    files = _find(path, config, split)
    names: list[str] = []
    tables: list[dict[str, list[Any]]] = []
    for file in files:
        try:
            with library.ParquetFile(file) as opened:
                held = opened.schema_arrow.names
                chosen = [name for name in (required, *others) if name in held]
                tables.append(opened.read(columns=chosen).to_pydict())
                names += [f"row {i} of {file}" for i in range(opened.metadata.num_rows)]
        # Arrow has errors of its own, and raises those of Python's, too.
        except Exception as error:
            raise InputError(
                f"{file} cannot be read as Parquet ({reason(error)}); allowed: an "
                "undamaged file."
            ) from None
        if required not in chosen:
            raise InputError(
                f"{file} has no column {required!r}; allowed: {', '.join(held)}."
            )
    if not names:
        raise InputError(f"{path} has no rows; allowed: at least one image.")
    everywhere = set.intersection(*(set(table) for table in tables))
    columns = {
        name: [value for table in tables for value in table[name]]
        for name in everywhere
    }
    return _Rows(str(path), names, columns)


def _find(path: Path, config: DataSettings, split: str) -> list[Path]:
    """Returns the files of a split, in order."""
    if not path.is_dir():
        if split == "test":
            raise InputError(
                f"data.path is {config.path!r}, one file of training images without a "
                f"test split; allowed: {_WANTED}."
            )
        return [path]
    name = split_name(config, split)
    found = [path / f"{name}{_END}", *sorted(path.glob(f"{name}-*{_END}"))]
    found = [file for file in found if file.is_file()]
    if not found:
        raise InputError(
            f"{path} has no file {name}{_END} or {name}-*{_END}; data.path allows: "
            f"{_WANTED}."
        )
    return found


def _integers(rows: _Rows, column: str) -> np.ndarray:
    values = rows.columns[column]
    for name, value in zip(rows.names, values, strict=True):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} has the {column} {value!r}; allowed: an integer.")
    return np.array(values)


def _import_pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"data.source is 'parquet', which needs pyarrow ({reason(error)}); "
            "allowed: pip install 'dpdm_jax[parquet]', or the source image_folder or "
            "npz."
        ) from None
    return pyarrow.parquet
