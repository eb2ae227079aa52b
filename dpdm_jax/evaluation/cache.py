"""The folder in the user's home for what takes long to fetch or to compute.

What is only computed again without it ends no evaluation: where nothing can be written,
one line says so.
"""

import hashlib
import logging
import os
import pathlib

import numpy as np

from dpdm_jax import files
from dpdm_jax.errors import InputError, reason

_log = logging.getLogger(__name__)


def default_folder() -> pathlib.Path:
    """Returns ``dpdm_jax`` in the user's cache folder."""
    return caches() / "dpdm_jax"


def caches() -> pathlib.Path:
    """Returns the user's cache folder; one that is not there without a home."""
    if root := os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(root)
    try:
        return pathlib.Path.home() / ".cache"
    except RuntimeError:  # an unknown user, as in a container
        return pathlib.Path("/nonexistent")


def checksum(*parts: str | np.ndarray) -> str:
    """Hashes words and arrays, with the arrays' shapes and types, by SHA-256."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"array {part.dtype} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(f"text {len(part)} {part}\n".encode())
    return digest.hexdigest()


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
    """Reads what ``write_arrays`` wrote; None if it is not there, or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception:  # a damaged archive raises many kinds
        return None


def keep_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as ``write_arrays`` does, or goes on without."""
    try:
        write_arrays(path, arrays)
    except (InputError, OSError) as e:
        _log.warning("%s is not kept for the next time: %s", path.name, reason(e))


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays in one step: a reader sees all or nothing.

    Only the user may read the file, since it can be computed from private data.

    Raises:
        InputError: they cannot be written.
    """
    files.make_folder(path.parent.parent)
    with files.writing(path):
        # Names of files are digests of what may be private.
        path.parent.mkdir(mode=0o700, exist_ok=True)
    with (
        files.replacing(path, private=True) as temporary,
        open(temporary, "wb") as file,
    ):
        np.savez(file, **arrays)  # type: ignore[arg-type]  # not allow_pickle
