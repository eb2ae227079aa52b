"""Camelyon17 as WILDS has it: patches of lymph nodes from five hospitals.

455,954 patches of 96x96 pixels (Koh et al. 2021, arXiv 2012.07421; Bandi et al. 2018),
of which a table tells patient, place, hospital and label. The folder is the one that
WILDS unpacks, ``camelyon17_v1.0``.
"""

import csv
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpdm_jax import validate
from dpdm_jax.data import image_folder, paths
from dpdm_jax.data.columns import Column
from dpdm_jax.data.random_access import RandomAccessSource
from dpdm_jax.data.sources import DataSettings, resolve_num_classes, split_name
from dpdm_jax.data.transforms import Preparation, center_crop_square
from dpdm_jax.errors import InputError, reason

_METADATA = "metadata.csv"
_WANTED = f"WILDS's folder camelyon17_v1.0, with {_METADATA} and patches/"
_COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "center", "split")
_SIDE = 96
_NUM_CLASSES = 2
# By the number in the table; two hospitals are splits by themselves, whatever it says.
_SPLITS = ("train", "id_val", "test", "val")
_SPLIT_OF_CENTER = {1: "val", 2: "test"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.data.camelyon17``.

    Attributes:
        center: side in pixels of the square that is kept of a patch's middle, before
            ``data.image_size`` resizes it; 0 for all 96, which shows what is around. 32
            is what the label tells of. Which one arXiv 2302.13861 takes, no source
            says.

    Raises:
        InputError: it is out of range.
    """

    center: int = 0

    def __post_init__(self) -> None:
        name = "data.camelyon17.center"
        validate.integer(name, self.center, minimum=0, maximum=_SIDE)


@dataclasses.dataclass(frozen=True)
class Patches:
    """The patches of one split, in the table's order: records, see ``random_access``.

    Attributes:
        files: below the folder.
        labels: 1 for tumour in the middle 32x32 pixels, else 0.
        patients: whose they are: one person has thousands.
    """

    files: list[str]
    labels: list[int]
    patients: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"file": self.files[index], "tumor": self.labels[index]}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [self[i] for i in indices]


def load(settings: Settings, config: DataSettings, split: str) -> RandomAccessSource:
    """Finds the patches of a split; they are decoded as they are asked for.

    Splits are WILDS's: "train" (302,436 patches of three hospitals), "id_val" (33,560
    of the same), "val" (34,904 of a fourth) and "test" (85,054 of a fifth).

    Args:
        settings: what is kept of a patch.
        config: reads path, train_split, test_split, num_classes and the fields of
            ``Preparation``.
        split: "train" or "test".

    Returns:
        The source; labels 1 for tumour and 0 for none.

    Raises:
        InputError: the folder, its table, a column or a patch is missing or damaged, or
            there is no such split; the message names the file.
    """
    folder = paths.existing_folder(config.path, _WANTED)
    name = split_name(config, split)
    validate.one_of(f"data.{split}_split", name, _SPLITS)
    patches = read_table(folder / _METADATA, name)
    num_classes = resolve_num_classes(config.num_classes, _NUM_CLASSES, str(folder))
    prepare = Preparation.from_config(config)

    def prepared(image: np.ndarray) -> np.ndarray:
        if settings.center:
            image = center_crop_square(image, settings.center)
        return prepare(image)

    return RandomAccessSource(
        patches,
        ("file", "tumor" if num_classes else None),
        functools.partial(_read, folder, prepared),
        num_classes,
    )


def column(config: DataSettings, name: str, split: str) -> Column:
    """Reads whose ``load``'s patches are.

    Args:
        config: see ``load``.
        name: "patient".
        split: "train" or "test".

    Raises:
        InputError: see ``load``; or it is another column.
    """
    validate.one_of("data.group", name, ("patient",))
    folder = paths.existing_folder(config.path, _WANTED)
    path = folder / _METADATA
    patches = read_table(path, split_name(config, split))
    return Column(patches.patients, patches.files, str(path))


def read_table(path: Path, split: str) -> Patches:
    """Reads which patches a split has.

    Args:
        path: of ``metadata.csv``.
        split: "train", "id_val", "val" or "test".

    Returns:
        At least one patch.

    Raises:
        InputError: the file is missing or damaged, or lists none.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing; data.path allows: {_WANTED}.")
    found = Patches([], [], [])
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            for row in _rows(csv.DictReader(lines, restval=""), path):
                if row.split == split:
                    found.files.append(row.file)
                    found.labels.append(row.label)
                    found.patients.append(row.patient)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read ({reason(error)}); allowed: WILDS's table."
        ) from None
    if not found.files:
        raise InputError(
            f"{path} lists no patches of the split {split!r}; allowed: at least one."
        )
    return found


class _Row(NamedTuple):
    file: str
    label: int
    patient: str
    split: str


def _rows(table: "csv.DictReader[str]", path: Path) -> Iterator[_Row]:
    missing = [name for name in _COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]}; allowed: the columns "
            f"{', '.join(_COLUMNS)}."
        )
    for number, row in enumerate(table, 1):
        yield _parsed(row, f"of row {number} of {path}")


def _parsed(row: dict[str, str], where: str) -> _Row:
    label, split = (_integer(row, name, where) for name in ("tumor", "split"))
    validate.one_of(f"the tumor {where}", label, range(_NUM_CLASSES))
    validate.one_of(f"the split {where}", split, range(len(_SPLITS)))
    node, x, y, center = (
        _integer(row, name, where) for name in ("node", "x_coord", "y_coord", "center")
    )
    patch = f"patient_{row['patient']}_node_{node}"
    return _Row(
        file=f"patches/{patch}/patch_{patch}_x_{x}_y_{y}.png",
        label=label,
        patient=row["patient"],  # a text: it has leading zeros
        split=_SPLIT_OF_CENTER.get(center, _SPLITS[split]),
    )


def _integer(row: dict[str, str], name: str, where: str) -> int:
    try:
        return int(row[name])
    except ValueError:
        raise InputError(
            f"the {name} {where} is {row[name]!r}; allowed: an integer."
        ) from None


def _read(
    folder: Path, prepare: Callable[[np.ndarray], np.ndarray], file: str
) -> np.ndarray:
    path = folder / file
    if not path.is_file():
        raise InputError(
            f"{path} is missing; allowed: all files that {_METADATA} lists."
        )
    return image_folder.decode_prepared(path, prepare)
