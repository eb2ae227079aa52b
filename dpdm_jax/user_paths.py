"""Paths as people give them: the one place where ~ is expanded and URLs are refused."""

import os
import pathlib
import re

from dpdm_jax.errors import InputError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+.*", re.DOTALL)


def user_path(name: str, value: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path that a user gave, with ~ expanded.

    Args:
        name: what the path is called where the user set it.
        value: the path; of a user that does not exist ~ stays as it is.

    Raises:
        InputError: it is a URL, of which a file system would make a folder "gs:".
    """
    text = os.fspath(value)
    if _URL.fullmatch(text) and not os.path.exists(text):
        raise InputError(
            f"{name} is {text!r}, a URL; allowed: a path in this machine's file "
            "system, where other storage can be mounted."
        )
    return pathlib.Path(os.path.expanduser(text))
