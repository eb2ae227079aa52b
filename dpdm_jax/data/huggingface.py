"""Folders that Hugging Face's library ``datasets`` writes: ``save_to_disk``.

A folder has Arrow files and a file state.json that lists them; one with several splits
has such a folder for each. They are read with pyarrow, for the library itself would
bring a dozen others to read two JSON files. Arrow files are mapped into memory, so that
a row is found without reading those before it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dpdm_jax.data import paths, tables
from dpdm_jax.data.columns import Column
from dpdm_jax.data.sources import DataSettings, Source, split_name
from dpdm_jax.data.tables import Columns
from dpdm_jax.errors import InputError, reason

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_WANTED = (
    "a folder that Dataset.save_to_disk or DatasetDict.save_to_disk wrote; for "
    "Parquet files data.source=parquet"
)


@dataclasses.dataclass(frozen=True)
class Settings(Columns):
    """``config.data.huggingface``: names of columns; see ``Columns``."""


def load(settings: Settings, config: DataSettings, split: str) -> Source:
    """Reads the images of a split, all of them or as they are asked for.

    Args:
        settings: names of columns.
        config: reads path, num_classes, class_names, on_demand, train_split, test_split
            and the fields of ``Preparation``. The path is a folder with a folder for
            each split, or one of a single data set, which then is the training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: a file is missing or damaged, a column is missing or of another
            type, or an image is damaged or does not fit; the message names it.
    """
    folder = _find(config, split)
    rows = _read(folder, settings.image, settings.label)
    return tables.source(rows, settings, config, folder)


def column(config: DataSettings, name: str, split: str) -> Column:
    """Reads what a column says of ``load``'s images.

    Args:
        config: see ``load``.
        name: of the column.
        split: "train" or "test".

    Raises:
        InputError: see ``load``.
    """
    return tables.column(_read(_find(config, split), name), name)


def _find(config: DataSettings, split: str) -> Path:
    """Returns the folder of a split."""
    path = paths.existing_folder(config.path, _WANTED)
    if (path / _STATE).is_file():
        if split == "test":
            raise InputError(
                f"data.path is {config.path!r}, one data set of training images "
                "without a test split; allowed: a folder with a data set of each, as "
                "DatasetDict.save_to_disk writes it."
            )
        return path
    folder = path / split_name(config, split)
    if not (folder / _STATE).is_file():
        splits = sorted(found.parent.name for found in path.glob(f"*/{_STATE}"))
        has = f"the splits {', '.join(splits)}" if splits else f"no {_STATE}"
        raise InputError(
            f"{path} has {has}, and none called {folder.name!r}; data.path allows: "
            f"{_WANTED}."
        )
    return folder


def _read(folder: Path, required: str, *others: str) -> tables.Rows:
    """Maps columns into memory; ``others`` where all files have them."""
    pyarrow = tables.pyarrow_for("huggingface")
    parts = []
    for file in _files(folder):
        try:
            with pyarrow.memory_map(str(file)) as mapped:
                table = pyarrow.ipc.open_stream(mapped).read_all()
            held = table.column_names
            chosen = [name for name in (required, *others) if name in held]
            table = table.select(chosen)
            # Places that a damaged file states may lie outside of it.
            table.validate(full=True)
        except Exception as error:  # Arrow's, and Python's
            raise InputError(
                f"{file} cannot be read as an Arrow stream ({reason(error)}); allowed: "
                "an undamaged file."
            ) from None
        parts.append(tables.Part(file, table, held))
    return tables.joined(folder, parts, required)


def _files(folder: Path) -> list[Path]:
    """Returns the Arrow files of a data set, in order."""
    path = folder / _STATE
    try:
        state: Any = json.loads(path.read_text(encoding="utf-8"))
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        chosen = state.get("_indices_data_files")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({reason(error)}); allowed: the file as "
            "save_to_disk writes it."
        ) from None
    if chosen:
        raise InputError(
            f"{folder} is a choice of rows beside its files (an earlier version wrote "
            "it); allowed: the data set after flatten_indices()."
        )
    if not names:
        raise InputError(f"{folder} has no rows; allowed: at least one image.")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise InputError(
                f"{path} lists {name!r}, which is no file beside it; allowed: all "
                "files of the data set."
            )
    return [folder / name for name in names]
