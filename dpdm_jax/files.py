"""Files written so that nothing is lost or left half-written, and their digests."""

import contextlib
import errno
import glob
import hashlib
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from dpdm_jax import json_values
from dpdm_jax.errors import InputError

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


def make_private_folder(path: pathlib.Path) -> None:
    """Makes a folder that its owner alone may open; one that is there becomes so.

    Raises:
        InputError: it cannot be made there.
    """
    with writing(path):
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)


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
def replacing(
    path: str | os.PathLike[str], what: object = None, *, private: bool = False
) -> Iterator[pathlib.Path]:
    """Yields a file beside ``path`` to write, which then takes its place.

    It does so in one step that survives a crash and a power cut: a reader sees the old
    file or the new one.

    Args:
        path: the file.
        what: what messages call it; None for its path.
        private: let its owner alone read it.

    Raises:
        InputError: it cannot be written.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with writing(path if what is None else what):
            # Before there is anything to read in it.
            temporary.touch(mode=0o600 if private else 0o666)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            # The rename itself is durable only once the directory is.
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it may never have been there
            temporary.unlink()


@contextlib.contextmanager
def replacing_folder(
    target: pathlib.Path, is_one: Callable[[pathlib.Path], bool], kind: str
) -> Iterator[pathlib.Path]:
    """Yields a new folder that takes the place of ``target`` if all goes well.

    It appears whole, or not at all, and what a killed process left is tidied away.

    Args:
        target: the folder.
        is_one: whether a folder that is there is an earlier one of its kind, which may
            be replaced; an empty one may.
        kind: what it is, for messages.

    Raises:
        InputError: it may not, or it cannot be written.
    """
    _tidy(target)
    if os.path.lexists(target) and not (_is_empty(target) or is_one(target)):
        raise InputError(
            f"{target} exists and is no {kind}; allowed: a name that is free, or an "
            f"earlier {kind}."
        )
    folder = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with writing(target):
            folder.mkdir()
            yield folder
            sync_tree(folder)
            _replace_folder(target, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_empty(path: pathlib.Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _tidy(target: pathlib.Path) -> None:
    """Removes what a killed process left; brings back what it had moved away."""
    left = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]+(\.old)?")
    for path in target.parent.glob(f".{glob.escape(target.name)}.*"):
        if not left.fullmatch(path.name) or not path.is_dir():
            continue
        if path.suffix == ".old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path)


def _replace_folder(target: pathlib.Path, folder: pathlib.Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync(target.parent)
    if old.exists():
        shutil.rmtree(old)


def write_json(path: pathlib.Path, value: Any, *, private: bool = False) -> None:
    """Writes JSON in one step: a reader sees the old file or the new one.

    Args:
        path: the file; its folder is made.
        value: see ``json_values.encode``.
        private: let its owner alone read it.
    """
    make_folder(path.parent)
    with replacing(path, private=private) as temporary:
        temporary.write_text(json_values.dumps(value, indent=2) + "\n")


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file's contents in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
