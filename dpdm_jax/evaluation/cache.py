"""The folder in the user's home for what takes long to fetch or to compute."""

import hashlib
import os
import pathlib

import numpy as np

from dpdm_jax import files


def default_folder() -> pathlib.Path:
    """Returns ``dpdm_jax`` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "dpdm_jax"


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


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays in one step: a reader sees all or nothing.

    Only the user may read the file, since it can be computed from private data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # not allow_pickle
