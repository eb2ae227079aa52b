"""Checks of the data path that a user gave."""

from pathlib import Path

from dpdm_jax.errors import InputError
from dpdm_jax.user_paths import user_path


def existing(path: str, wanted: str) -> Path:
    """Returns ``path`` with ~ expanded.

    Args:
        path: data.path of the config.
        wanted: what it should be, for the message.

    Raises:
        InputError: it is empty or nothing is there.
    """
    if not path:
        raise InputError(f"data.path is ''; allowed: {wanted}.")
    expanded = user_path("data.path", path)
    if not expanded.exists():
        raise InputError(f"data.path is {path!r}, which is missing; allowed: {wanted}.")
    return expanded


def existing_folder(path: str, wanted: str) -> Path:
    """Returns ``path`` with ~ expanded.

    Args:
        path: data.path of the config.
        wanted: what it should be, for the message.

    Raises:
        InputError: it is empty or no folder is there.
    """
    folder = existing(path, wanted)
    if not folder.is_dir():
        raise InputError(f"data.path is {path!r}, a file; allowed: {wanted}.")
    return folder
