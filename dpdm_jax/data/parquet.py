"""Parquet files with encoded images, as Hugging Face's hub has them."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from dpdm_jax.data import paths, tables
from dpdm_jax.data.columns import Column
from dpdm_jax.data.sources import DataSettings, Source, split_name
from dpdm_jax.data.tables import Columns
from dpdm_jax.errors import InputError, reason

_END = ".parquet"
_SHARD = re.compile(r".*-(\d+)-of-(\d+)(-[0-9a-f]+)?\.parquet")
_WANTED = (
    "a .parquet file, or a folder with SPLIT.parquet or SPLIT-00000-of-00002.parquet "
    "and so on, in itself or in its sub-folder data"
)


@dataclasses.dataclass(frozen=True)
class Settings(Columns):
    """``config.data.parquet``: names of columns; see ``Columns``."""


def load(settings: Settings, config: DataSettings, split: str) -> Source:
    """Decodes every image of a split into one array.

    Args:
        settings: names of columns.
        config: reads path, num_classes, class_names, train_split, test_split and the
            fields of ``Preparation``. The path is a folder with the files of each
            split, whose rows follow in order of file name; or one file, which then is
            the training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: a file is missing or damaged, a column is missing or of another
            type, or an image is damaged or does not fit; the message names it.
    """
    rows = _read(config, split, settings.image, settings.label)
    return tables.source(rows, settings, config)


def column(config: DataSettings, name: str, split: str) -> Column:
    """Reads what a column says of ``load``'s images.

    Args:
        config: see ``load``.
        name: of the column.
        split: "train" or "test".

    Raises:
        InputError: see ``load``.
    """
    return tables.column(_read(config, split, name), name)


def _read(config: DataSettings, split: str, required: str, *others: str) -> tables.Rows:
    """Reads columns; ``others`` where all files have them."""
    tables.pyarrow_for("parquet")
    import pyarrow.parquet

    path = paths.existing(config.path, _WANTED)
    parts = []
    for file in _find(path, config, split):
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                held = opened.schema_arrow.names
                chosen = [name for name in (required, *others) if name in held]
                table = opened.read(columns=chosen)
        # Arrow has errors of its own, and raises those of Python's, too.
        except Exception as error:
            raise InputError(
                f"{file} cannot be read as Parquet ({reason(error)}); allowed: an "
                "undamaged file."
            ) from None
        parts.append(tables.Part(file, table, held))
    return tables.joined(path, parts, required)


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
    for folder in (path, path / "data"):
        found = [folder / f"{name}{_END}", *sorted(folder.glob(f"{name}-*{_END}"))]
        if found := [file for file in found if file.is_file()]:
            _check_whole(found)
            return found
    raise InputError(
        f"{path} has no file {name}{_END} or {name}-*{_END}; data.path allows: "
        f"{_WANTED}."
    )


def _check_whole(files: Sequence[Path]) -> None:
    """Refuses a part of the files that a split is said to have.

    Raises:
        InputError: some are missing.
    """
    matches = [match for file in files if (match := _SHARD.fullmatch(file.name))]
    stated = {int(match[2]) for match in matches}
    if matches and stated != {len(matches)}:
        raise InputError(
            f"{files[0].parent} has {len(matches)} of the {max(stated)} files that "
            f"{files[-1].name} is one of; allowed: all of them."
        )
