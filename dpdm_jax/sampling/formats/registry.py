"""The formats by name, and what they write: all of a data set, or nothing of it."""

import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any

from dpdm_jax import files, json_values, validate
from dpdm_jax.sampling.formats import parquet, png, webdataset
from dpdm_jax.sampling.formats.base import Format, ImageSet, Place

#: The archive samples.npz, which is always there: other modes read it.
ARCHIVE = "npz"
FORMATS: dict[str, Format] = {
    "png": png,
    "parquet": parquet,
    "webdataset": webdataset,
}
#: Beside the folders of formats: what is whole, and the SHA-256 of each file.
DIGESTS = "digests.json"


def chosen(names: str) -> tuple[str, ...]:
    """Returns the formats that a config asks for beside the archive.

    Args:
        names: ``sample.formats``, separated by commas.

    Raises:
        InputError: one is unknown, or needs a package that is not installed.
    """
    found = dict.fromkeys(name.strip() for name in names.split(",") if name.strip())
    for name in found:
        validate.one_of("sample.formats", name, (ARCHIVE, *FORMATS))
    found.pop(ARCHIVE, None)
    for name in found:
        FORMATS[name].require()
    return tuple(found)


def write(folder: pathlib.Path, names: Sequence[str], whole: ImageSet) -> None:
    """Writes images in formats, each in a folder of its name, and their digests.

    A folder appears once all of it is there. After an interruption parts that are
    written stay; a folder that is there already, of as many images, stays.

    Args:
        folder: of the samples.
        names: keys of ``FORMATS``.
        whole: the images.

    Raises:
        InputError: they do not fit a format, or there is no room.
    """
    for name in names:
        stated = read_digests(folder)
        if _is_there(folder / name, stated.get(name), len(whole)):
            continue
        if stated.pop(name, None):
            files.write_json(folder / DIGESTS, stated)
        made = write_one(folder, name, whole)
        stated[name] = {"num_images": len(whole), "files": made}
        files.write_json(folder / DIGESTS, stated)


def write_one(folder: pathlib.Path, name: str, whole: ImageSet) -> dict[str, str]:
    """Writes images in one format.

    Args:
        folder: in which its folder takes the place of an earlier one.
        name: key of ``FORMATS``.
        whole: the images.

    Returns:
        The SHA-256 of each file, by its name in the format's folder.

    Raises:
        InputError: see ``write``.
    """
    kind = FORMATS[name]
    # Of so many images: what is left of another number is of no use.
    working = folder / f".{name}.{len(whole)}"
    for left in folder.glob(f".{name}.*"):
        if left != working and re.fullmatch(r"\d+", left.name.rpartition(".")[2]):
            shutil.rmtree(left)
    files.make_folder(working)
    parts = -(-len(whole) // kind.PART_SIZE)
    with files.writing(folder / name):
        for number in range(parts):
            done = working / f".done_{number}"
            if done.exists():
                continue
            first = number * kind.PART_SIZE
            stop = min(first + kind.PART_SIZE, len(whole))
            kind.write(working, whole, Place(first, stop, number, parts))
            done.touch()
        for mark in working.glob(".done_*"):
            mark.unlink()
        files.sync_tree(working)
        shutil.rmtree(folder / name, ignore_errors=True)
        working.rename(folder / name)
        files.sync(folder)
    return _digests(folder / name)


def read_digests(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the contents of ``DIGESTS``; nothing of damaged ones, or of none."""
    try:
        stated = json_values.loads((folder / DIGESTS).read_text())
    except (OSError, ValueError):
        return {}
    return stated if isinstance(stated, dict) else {}


def _is_there(folder: pathlib.Path, stated: Any, count: int) -> bool:
    if not isinstance(stated, dict) or stated.get("num_images") != count:
        return False
    return stated.get("files") == _digests(folder)


def _digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
