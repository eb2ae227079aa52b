"""Files of a run directory that more than one stage reads or writes."""

import contextlib
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
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a file beside ``path`` to write, which then takes its place."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON in one step: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_json_values(value), indent=2) + "\n")


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a run directory.

    The lock is the operating system's, so that a killed process leaves none behind.

    Args:
        workdir: an existing directory.

    Raises:
        InputError: another process holds the lock.
    """
    with open(workdir / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"{workdir} is in use by another process; allowed: one training "
                "process in a run directory."
            ) from None
        yield
