"""Tar files of images and of what belongs to them, as WebDataset has them.

Files of one name and different endings are one example: ``000017.jpg``, ``000017.cls``,
``000017.json``. An example is found by its shard and its place in it, so that none need
be read before it is asked for.
"""

import collections
import dataclasses
import itertools
import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tqdm

from dpdm_jax import validate
from dpdm_jax.data import image_folder
from dpdm_jax.data.columns import Column, Made
from dpdm_jax.data.sources import DataSettings, Source, split_name
from dpdm_jax.data.stored_images import source_of
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, listed, reason
from dpdm_jax.user_paths import user_path

_log = logging.getLogger(__name__)

_END = ".tar"
_PATTERN = re.compile(r"[*?\[{]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
_LABEL = re.compile(r"[\w.-]{1,100}")
_JSON = "json"
_FILE = re.compile(r"(^|/)[^./][^./]*\.[^/]+$")
_WANTED = (
    "a .tar file, a pattern such as train-{00000..00009}.tar or train-*.tar, or a "
    "folder with SPLIT.tar, SPLIT-*.tar or SPLIT/*.tar"
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.data.webdataset``.

    Attributes:
        label: ending of the files that have an integer, or a key of the .json files,
            whose value is an integer or a name in ``data.class_names``; data without it
            is unlabelled.

    Raises:
        InputError: it is none.
    """

    label: str = "cls"

    def __post_init__(self) -> None:
        validate.text(
            "data.webdataset.label", self.label, _LABEL, "an ending, or a key of .json"
        )


class _Place(NamedTuple):
    """Where a file lies in a shard, in bytes."""

    start: int
    size: int


@dataclasses.dataclass(frozen=True)
class _Shard:
    """What a tar file holds.

    Attributes:
        path: of the file.
        keys: of the examples, in natural order.
        images: int64 [n, 2], where the image of each lies.
        others: by ending, where files of the examples lie, by number of the example.
    """

    path: Path
    keys: list[str]
    images: np.ndarray
    others: Mapping[str, dict[int, _Place]]


def load(settings: Settings, config: DataSettings, split: str) -> Source:
    """Reads the images of a split's shards, all of them or as they are asked for.

    Shards follow in natural order of their names, or as a pattern with a range has
    them, the examples of one in natural order of their names in it.

    Args:
        settings: which files have labels.
        config: reads path, num_classes, class_names, on_demand, train_split, test_split
            and the fields of ``Preparation``. The path is a folder, in which a split's
            name may be a pattern, too; or one shard or a pattern, which then is the
            training split.
        split: "train" or "test".

    Returns:
        The source.

    Raises:
        InputError: a shard is missing or damaged, an example has no image or several,
            or images of a kind that is not read, or an image is damaged or does not
            fit; the message names it.
    """
    shards = _index(config, split, {settings.label, config.group, _JSON}, warn=True)
    which = np.repeat(np.arange(len(shards)), [len(shard.keys) for shard in shards])
    where = np.concatenate([shard.images for shard in shards])
    names = _names(shards)
    title, labels = _title(config, split), None
    if config.num_classes != 0:
        labels = _labels(shards, settings.label, config, names, title)
    prepare = Preparation.from_config(config)

    def read(index: int) -> np.ndarray:
        (start, size), name = where[index].tolist(), names[index]
        with shards[which[index]].path.open("rb", buffering=0) as file:
            file.seek(start)
            content = file.read(size)
        return image_folder.prepared(image_folder.decode(content, name), prepare, name)

    return source_of(
        read,
        labels,
        config.num_classes,
        names=names,
        name=title,
        on_demand=config.on_demand,
    )


def column(config: DataSettings, name: str, split: str) -> Column:
    """Reads what files of an ending, or a key of the .json files, say of the images.

    Args:
        config: see ``load``.
        name: of the ending, such as "txt", or of the key.
        split: "train" or "test".

    Raises:
        InputError: see ``load``; or a .json file is damaged.
    """
    shards = _index(config, split, {name, _JSON})
    values = _values(shards, name, where := _title(config, split))
    return Column(values, _names(shards), f"{name!r} of {where}")


def _title(config: DataSettings, split: str) -> str:
    return f"the {split}ing shards of {config.path}"


def _names(shards: Sequence[_Shard]) -> Made[str]:
    starts = [0, *itertools.accumulate(len(shard.keys) for shard in shards)]

    def name(index: int) -> str:
        number = int(np.searchsorted(starts, index, "right")) - 1
        shard = shards[number]
        return f"{shard.path}: {shard.keys[index - starts[number]]}"

    return Made(starts[-1], name)


def _values(shards: Sequence[_Shard], name: str, where: str) -> list[object]:
    """Reads a column: texts of files, or values in .json files; None where none is."""
    endings = {ending for shard in shards for ending in shard.others}
    found: list[object] = []
    keys: collections.Counter[str] = collections.Counter()
    for shard in shards:
        is_key = name not in endings
        places = shard.others.get(_JSON if is_key else name, {})
        with shard.path.open("rb") as file:
            for number, key in enumerate(shard.keys):
                value: object = None
                if place := places.get(number):
                    file.seek(place.start)
                    label = f"{shard.path}: {key}.{_JSON if is_key else name}"
                    value = _text(file.read(place.size), label)
                    if is_key:
                        held = _object(str(value), label)
                        keys.update(held)
                        value = held.get(name)
                found.append(value)
    if all(value is None for value in found):
        known = sorted(endings - {_JSON}) + [f"{key} of .json" for key in sorted(keys)]
        raise InputError(
            f"{where} have no {name!r}; allowed: "
            f"{listed(known, 12) or 'none, there are images alone'}."
        )
    return found


def _text(content: bytes, label: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{label} cannot be read ({reason(error)}); allowed: UTF-8."
        ) from None


def _object(text: str, label: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{label} cannot be read ({reason(error)}); allowed: a JSON object."
        ) from None
    if not isinstance(value, dict):
        raise InputError(f"{label} is no JSON object; allowed: one.")
    return value


def _labels(
    shards: Sequence[_Shard],
    name: str,
    config: DataSettings,
    names: Sequence[str],
    title: str,
) -> np.ndarray | None:
    """Reads the labels; None where there are none, and none are wanted."""
    may_have = any({name, _JSON} & shard.others.keys() for shard in shards)
    if not may_have and config.num_classes < 0:
        return None
    values = _values(shards, name, title)
    labels = np.empty(len(values), np.int64)
    for i, value in enumerate(values):
        text = value.strip() if isinstance(value, str) else value
        if isinstance(text, str) and text in config.class_names:
            labels[i] = config.class_names.index(text)
        elif isinstance(text, str) and re.fullmatch(r"-?\d{1,10}", text):
            labels[i] = int(text)
        elif isinstance(text, int) and not isinstance(text, bool):
            labels[i] = text
        else:
            shown = "no label" if value is None else f"the label {str(value)[:80]!r}"
            raise InputError(
                f"{names[i]} has {shown} in {name!r}; allowed: an integer, or a name "
                "in data.class_names."
            )
    return labels


def _index(
    config: DataSettings, split: str, read: set[str], *, warn: bool = False
) -> list[_Shard]:
    """Lists the examples of a split.

    Args:
        config: see ``load``.
        split: likewise.
        read: endings whose places are kept; others are counted.
        warn: of files that no setting reads.
    """
    paths_, passed = _find(config, split), collections.Counter[str]()
    with tqdm.tqdm(paths_, desc="listing shards", leave=False, disable=None) as bar:
        shards = [_list(path, read, passed) for path in bar]
    if warn and passed:
        kinds = [f"{count} .{ending}" for ending, count in passed.most_common()]
        _log.warning(
            "Beside images and labels the %sing shards have %s.", split, listed(kinds)
        )
    if not any(shard.keys for shard in shards):
        raise InputError(f"{paths_[0]} has no images; allowed: {_WANTED}.")
    return shards


def _list(path: Path, read: set[str], passed: "collections.Counter[str]") -> _Shard:
    """Lists the examples of a shard, without reading any."""
    members = dict(_members(path))
    are_images = {*image_folder.image_names(members, path)}
    images: dict[str, _Place] = {}
    others: dict[str, dict[str, _Place]] = {}
    seen: set[str] = set()
    for name, place in members.items():
        folder, _, file = name.rpartition("/")
        stem, _, ending = file.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        seen.add(key)
        if name in are_images:
            if key in images:
                raise InputError(
                    f"{path} has several images of {key!r}; allowed: one of each name."
                )
            images[key] = place
        elif ending in read:
            others.setdefault(ending, {})[key] = place
        else:
            passed[ending] += 1
            others.setdefault(ending, {})
    if lacking := sorted(seen - images.keys()):
        raise InputError(
            f"{len(lacking)} of {len(seen)} examples of {path} have no image "
            f"({listed(lacking)}); allowed: one of each."
        )
    keys = sorted(images, key=image_folder.natural_order)
    numbers = {key: i for i, key in enumerate(keys)}
    return _Shard(
        path,
        keys,
        np.array([images[key] for key in keys], np.int64).reshape(-1, 2),
        {
            ending: {numbers[key]: place for key, place in places.items()}
            for ending, places in others.items()
        },
    )


def _members(path: Path) -> Iterator[tuple[str, _Place]]:
    """Yields the files of a tar file that have an ending, and where they lie."""
    try:
        # Not compressed: of such a file no place can be read by itself.
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                # It would keep all of them.
                archive.members = []  # type: ignore[attr-defined]
                # Hidden ones are of operating systems.
                if member.isfile() and _FILE.search(member.name):
                    yield member.name, _Place(member.offset_data, member.size)
            with path.open("rb") as file:
                file.seek(archive.offset)
                # A file cut between two members would look whole.
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("its end is missing")
    except (OSError, tarfile.TarError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a tar file ({reason(error)}); allowed: an "
            "undamaged one that is not compressed."
        ) from None


def _find(config: DataSettings, split: str) -> list[Path]:
    """Returns the shards of a split, in order."""
    if not config.path:
        raise InputError(f"data.path is ''; allowed: {_WANTED}.")
    path = user_path("data.path", config.path)
    if path.is_dir():
        name = split_name(config, split)
        if _PATTERN.search(name) or name.endswith(_END):
            return _matching(path, name, f"data.{split}_split is {name!r}")
        for pattern in (f"{name}{_END}", f"{name}-*{_END}", f"{name}/*{_END}"):
            if found := _sorted(path.glob(pattern)):
                return found
        raise InputError(
            f"{path} has no file {name}{_END}, {name}-*{_END} or {name}/*{_END}; "
            f"data.path allows: {_WANTED}."
        )
    if split == "test":
        raise InputError(
            f"data.path is {config.path!r}, shards of training images without a test "
            "split; allowed: a folder with those of each."
        )
    if path.is_file():
        return [path]
    return _matching(path.parent, path.name, f"data.path is {config.path!r}")


def _matching(folder: Path, pattern: str, given: str) -> list[Path]:
    """Returns the shards that a pattern names: a range in braces names each."""
    names = [pattern]
    while match := _RANGE.search(names[0]):
        first, last = match[1], match[2]
        count = int(last) - int(first) + 1
        if not 0 < count * len(names) <= _MAX_SHARDS:
            raise InputError(
                f"{given}, {count * len(names)} shards; allowed: 1 to {_MAX_SHARDS}."
            )
        names = [
            _RANGE.sub(f"{number:0{len(first)}d}", name, count=1)
            for name in names
            for number in range(int(first), int(last) + 1)
        ]
    found = []
    for name in names:
        if _PATTERN.search(name):
            found += _sorted(folder.glob(name))
        else:
            found.append(folder / name)
    missing = [path.name for path in found if not path.is_file()]
    if missing or not found:
        what = f"{len(missing)} missing ({listed(missing)})" if missing else "no file"
        raise InputError(
            f"{given}, of which there is {what} in {folder}; allowed: {_WANTED}."
        )
    return found


def _sorted(found: Iterator[Path]) -> list[Path]:
    files = [path for path in found if path.is_file()]
    return sorted(files, key=lambda path: image_folder.natural_order(str(path)))
