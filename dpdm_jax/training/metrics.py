"""Metrics of a run: a local log, in which what was read off the data is marked."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from dpdm_jax.training.step import Diagnostics

FILE_NAME = "metrics.jsonl"
#: Names under this prefix come from private data without noise: never publish them.
PRIVATE = "private/"


class MetricsLog:
    """Writes scalars to ``metrics.jsonl`` and, through clu, to TensorBoard."""

    def __init__(self, workdir: pathlib.Path, *, tensorboard: bool):
        """Opens the files, which only their owner can read.

        Args:
            workdir: the run directory.
            tensorboard: whether to write TensorBoard events.
        """
        path = workdir / FILE_NAME
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._lines = os.fdopen(handle, "a")
        self._events = None
        self._events_folder = workdir / "tensorboard" if tensorboard else None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of one step."""
        line = {"step": step} | {k: float(v) for k, v in scalars.items()}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        if self._events_folder is not None:
            if self._events is None:
                self._events = _open_events(self._events_folder)
            self._events.write_scalars(step, scalars)

    def close(self) -> None:
        """Writes out what is buffered."""
        self._lines.close()
        if self._events is not None:
            self._events.close()


def _open_events(folder: pathlib.Path) -> Any:
    # Brings TensorFlow, which takes seconds: not before there is something to write, so
    # that the first step need not wait for it.
    from clu import metric_writers

    folder.mkdir(mode=0o700, exist_ok=True)
    return metric_writers.SummaryWriter(str(folder))


def private_diagnostics(sums: Diagnostics) -> dict[str, float]:
    """Turns a logical batch's sums into means, under names that mark them private."""
    finite = max(float(sums.examples) - float(sums.non_finite), 1.0)
    return {
        f"{PRIVATE}loss": float(sums.loss) / finite,
        f"{PRIVATE}grad_norm": float(sums.grad_norm) / finite,
        f"{PRIVATE}clip_fraction": float(sums.clipped) / finite,
        f"{PRIVATE}non_finite": float(sums.non_finite),
        f"{PRIVATE}batch_size": float(sums.examples),
    }
