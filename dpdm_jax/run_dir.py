"""Files of a run directory that more than one stage reads or writes."""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

import ml_collections

from dpdm_jax.errors import InputError

CONFIG = "config.json"
LEDGER = "privacy.json"
SAMPLES = "samples"
EVALUATION = "evaluation"
RELEASE = "release"
REPORT = "report.html"
PUBLIC_REPORT = "report_public.html"

# What the operating system answers where there is no room (disk, quota, file size) ...
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# ... and where nobody, or not this user, can write.
_NO_PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
)


def to_json_values(value: Any) -> Any:
    """Turns a config into values that JSON has: lists, and "inf" for infinity."""
    if isinstance(value, ml_collections.ConfigDict):
        value = value.to_dict()
    if isinstance(value, dict):
        return {str(k): to_json_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_values(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def from_json_values(value: Any) -> Any:
    """Undoes ``to_json_values``, as far as a config goes: tuples, and infinity."""
    if isinstance(value, dict):
        return {k: from_json_values(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(from_json_values(v) for v in value)
    if value in ("inf", "-inf"):
        return float(value)
    return value


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Runs a block that writes; where storage refuses, one sentence says so.

    Args:
        what: the file or folder that is written.

    Raises:
        InputError: there is no room for it, or it may not be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        if reason := _no_room(e):
            raise InputError(
                f"{what} cannot be written ({reason}); allowed: storage with free "
                "space, where the same command goes on."
            ) from None
        if isinstance(e, OSError) and e.errno in _NO_PLACE:
            raise InputError(
                f"{what} cannot be written ({e.strerror}); allowed: a place where this "
                "user may make files and folders."
            ) from None
        raise


def _no_room(error: BaseException | None) -> str | None:
    """Returns the operating system's words if storage was full, else None.

    Libraries in other languages (TensorStore, TensorFlow) quote them in errors of their
    own.
    """
    while error is not None:
        for code in _NO_ROOM:
            reason = os.strerror(code)
            if getattr(error, "errno", None) == code or reason in str(error):
                return reason
        error = error.__cause__ or error.__context__
    return None


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder, and those above it, unless they are there.

    Raises:
        InputError: it cannot be made there.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def sync_tree(folder: pathlib.Path) -> None:
    """Has a folder, all below it and its own name on disk before anyone counts on it.

    Without, a power cut may leave the name and lose the contents.
    """
    for path in (*folder.rglob("*"), folder, folder.parent):
        sync(path)


def sync(path: pathlib.Path) -> None:
    """Has a file, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a file beside ``path`` to write, which then takes its place.

    Raises:
        InputError: it cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with writing(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it may never have been there
            temporary.unlink()


def write_json(path: pathlib.Path, value: Any, *, private: bool = False) -> None:
    """Writes JSON in one step: a reader sees the old file or the new one.

    Args:
        path: the file; its folder is made.
        value: see ``to_json_values``.
        private: let its owner alone read it.
    """
    make_folder(path.parent)
    with replacing(path) as temporary:
        temporary.touch(mode=0o600 if private else 0o666)
        temporary.write_text(json.dumps(to_json_values(value), indent=2) + "\n")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a run directory.

    The lock is the operating system's, so that a killed process leaves none behind.

    Args:
        workdir: an existing directory.

    Raises:
        InputError: another process holds the lock, or nothing can be written there.
    """
    path = workdir / ".lock"
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{workdir} is in use by another process; allowed: one training "
                "process in a run directory."
            ) from None
        yield
    finally:
        os.close(handle)
