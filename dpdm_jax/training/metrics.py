"""Metrics of a run: a local log, in which what was read off the data is marked."""

import importlib.util
import json
import logging
import os
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dpdm_jax import run_dir
from dpdm_jax.training.step import Diagnostics

if TYPE_CHECKING:
    from tensorboard.compat.proto import event_pb2

FILE_NAME = "metrics.jsonl"
#: Names under this prefix come from private data without noise: never publish them.
PRIVATE = "private/"
_log = logging.getLogger(__name__)


class MetricsLog:
    """Writes scalars to ``metrics.jsonl`` and, if that is installed, to TensorBoard."""

    def __init__(self, workdir: pathlib.Path, *, tensorboard: bool):
        """Opens the files, which only their owner can read.

        Args:
            workdir: the run directory.
            tensorboard: whether to write TensorBoard events, too. It is the config's
                default, which says nothing of what a user wants: where TensorBoard is
                not installed, one line in the log says so and there are none.

        Raises:
            InputError: there is no room for them.
        """
        self._path = workdir / FILE_NAME
        with run_dir.writing(self._path):
            self._handle = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
            )
        # A power cut may have left half a line, which would spoil the next one.
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.ftruncate(self._handle, whole)
        self._events: _Events | None = None
        self._events_folder = workdir / "tensorboard" if tensorboard else None
        if tensorboard and importlib.util.find_spec("tensorboard") is None:
            self._events_folder = None
            _log.info(
                "log.tensorboard is True, which needs TensorBoard; %s has all metrics "
                "without (to have both: pip install 'dpdm_jax[tensorboard]').",
                FILE_NAME,
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of one step.

        Raises:
            InputError: there is no room for them.
        """
        values = {name: float(value) for name, value in scalars.items()}
        self._append(json.dumps({"step": step} | values).encode() + b"\n")
        if self._events_folder is None:
            return
        with run_dir.writing(self._events_folder):
            if self._events is None:
                self._events = _Events(self._events_folder)
            self._events.write(step, values)

    def _append(self, line: bytes) -> None:
        """Writes a line, or nothing of it; unbuffered, so that closing cannot fail."""
        before = os.fstat(self._handle).st_size
        try:
            with run_dir.writing(self._path):
                while line:
                    line = line[os.write(self._handle, line) :]
        except BaseException:
            os.ftruncate(self._handle, before)
            raise

    def close(self) -> None:
        """Writes out what is buffered."""
        os.close(self._handle)
        if self._events is not None:
            with run_dir.writing(self._events_folder):
                self._events.close()


class _Events:
    """A file of TensorBoard events.

    Written with TensorBoard's own parts: its usual writers want TensorFlow, or write in
    a thread, where a full disk is noticed too late.
    """

    def __init__(self, folder: pathlib.Path):
        # Takes half a second: not before there is something to write, so that the first
        # step need not wait for it.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(mode=0o700, exist_ok=True)
        # TensorBoard looks for "tfevents" and reads files in the order of their names.
        path = folder / f"events.out.tfevents.{time.time():.6f}"
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._records = RecordWriter(os.fdopen(handle, "ab"))
        self._append(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
        ]
        summary = self._summary(value=values)
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: "event_pb2.Event") -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._records.close()


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
