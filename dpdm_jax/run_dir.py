"""Files of a run directory that more than one stage reads or writes."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from dpdm_jax import files
from dpdm_jax.errors import InputError

CONFIG = "config.json"
LEDGER = "privacy.json"
LATENTS = "latents"
SAMPLES = "samples"
EVALUATION = "evaluation"
RELEASE = "release"
REPORT = "report.html"
PUBLIC_REPORT = "report_public.html"


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
    with files.writing(path):
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
