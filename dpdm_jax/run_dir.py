"""Files of a run directory that more than one stage reads or writes."""

import contextlib
import fcntl
import logging
import os
import pathlib
from collections.abc import Iterator

from dpdm_jax import files
from dpdm_jax.errors import InputError

_log = logging.getLogger(__name__)

CONFIG = "config.json"
LEDGER = "privacy.json"
CHECKPOINTS = "checkpoints"
DAMAGED = "damaged"  # of checkpoints
SESSIONS = "computed_with.json"
AUTOENCODER = "autoencoder"  # the training of a codec
LATENTS = "latents"
SAMPLES = "samples"
SETTINGS = "settings.json"  # of a folder of samples
SNAPSHOTS = "snapshots"  # pictures in training, beside these folders
EVALUATION = "evaluation"
RELEASE = "release"
MANIFEST = "MANIFEST.json"  # of a release
REPORT = "report.html"
PUBLIC_REPORT = "report_public.html"
COMPARISON = "comparison.html"
PUBLIC_COMPARISON = "comparison_public.html"


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


@contextlib.contextmanager
def alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process makes the same files, and keeps others waiting.

    Where storage takes no lock, or no file, nothing is waited for: what the block
    writes says why it cannot.

    Args:
        folder: of the files; it is made.
    """
    handle = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("Waiting for another process that writes to %s.", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as e:
        _log.debug("%s is not locked (%s).", folder, e)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)
