"""Metrics of a run: a local log, in which what was read off the data is marked."""

import importlib.util
import logging
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from dpdm_jax import files, json_values
from dpdm_jax.training.step import Diagnostics
from dpdm_jax.training.writers.registry import PRIVATE as PRIVATE
from dpdm_jax.training.writers.registry import Followers

FILE_NAME = "metrics.jsonl"
_log = logging.getLogger(__name__)


class MetricsLog:
    """Writes scalars to ``metrics.jsonl`` and, if clu is installed, to TensorBoard."""

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        tensorboard: bool,
        followers: Followers | None = None,
    ):
        """Opens the files, which only their owner can read.

        Args:
            workdir: the run directory.
            tensorboard: whether to write TensorBoard events, too. It is the config's
                default, which says nothing of what a user wants: where clu is not
                installed, one line in the log says so and there are none.
            followers: further places, told behind the file and closed with it.

        Raises:
            InputError: there is no room for them.
        """
        self._path = workdir / FILE_NAME
        with files.writing(self._path):
            self._handle = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
            )
        # A power cut may have left half a line, which would spoil the next one.
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._handle, whole)
        self._followers = followers
        self._events: Any = None
        self._events_folder = workdir / "tensorboard" if tensorboard else None
        if tensorboard and not _is_installed():
            self._events_folder = None
            _log.info(
                "Metrics go to %s. (For TensorBoard too: pip install "
                "'dpdm_jax[tensorboard]'.)",
                FILE_NAME,
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of one step.

        Raises:
            InputError: there is no room for them.
        """
        values = {name: float(value) for name, value in scalars.items()}
        self._append(json_values.dumps({"step": step} | values).encode() + b"\n")
        if self._followers is not None:
            self._followers.write(step, values)
        if self._events_folder is None:
            return
        with files.writing(self._events_folder):
            if self._events is None:
                self._events = _open_events(self._events_folder)
            self._events.write_scalars(step, values)

    def _append(self, line: bytes) -> None:
        """Writes a line, or nothing of it; unbuffered, so that closing cannot fail."""
        before = os.fstat(self._handle).st_size
        try:
            with files.writing(self._path):
                while line:
                    line = line[os.write(self._handle, line) :]
        except BaseException:
            os.ftruncate(self._handle, before)
            raise

    def close(self) -> None:
        """Writes out what is buffered."""
        os.close(self._handle)
        if self._followers is not None:
            self._followers.close()
        if self._events is not None:
            with files.writing(self._events_folder):
                self._events.close()


def _is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("clu", "tensorflow"))


def _open_events(folder: pathlib.Path) -> Any:
    # Brings TensorFlow, which takes seconds: not before there is something to write, so
    # that the first step need not wait for it.
    from clu import metric_writers

    folder.mkdir(mode=0o700, exist_ok=True)
    return metric_writers.SummaryWriter(str(folder))


def private_diagnostics(sums: Diagnostics) -> dict[str, float]:
    """Turns a logical batch's sums into means, under names that mark them private.

    Where every example was left out, as none had a finite gradient, they are NaN. An
    empty batch has none: a loss of 0 would be that of a perfect model.
    """
    counts = {
        f"{PRIVATE}non_finite": float(sums.non_finite),
        f"{PRIVATE}batch_size": float(sums.examples),
    }
    if not sums.examples:
        return counts
    finite = float(sums.examples) - float(sums.non_finite) or math.nan
    found = {
        f"{PRIVATE}loss": float(sums.loss) / finite,
        f"{PRIVATE}grad_norm": float(sums.grad_norm) / finite,
        f"{PRIVATE}clip_fraction": float(sums.clipped) / finite,
    } | counts
    if math.isnan(sums.grad_norm):  # of ordinary gradients there are none
        del found[f"{PRIVATE}grad_norm"], found[f"{PRIVATE}clip_fraction"]
    return found
