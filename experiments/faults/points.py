"""Kills runs at random points, lets them end, and compares them with undisturbed ones.

The operating system's entropy is replaced by secrets that depend on the attempt: all
else is the program as it is. A run must keep the secrets that its first checkpoint has,
and end like an undisturbed run with those.
"""

import collections
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from experiments.faults import job, observe

#: How a point interrupts its run.
OPERATION = "operation"  # right before a random change of names below the run directory
MOMENT = "moment"  # at a random time
DAMAGE = "damage"  # as the first, and a file of the newest checkpoint is cut short
_KINDS = (OPERATION, OPERATION, MOMENT, DAMAGE)
_SECOND_KILL = 0.2  # of the points kill the run a second time
_ATTEMPTS = 4


@dataclasses.dataclass
class Outcome:
    """What became of some points.

    Attributes:
        kinds: points by kind.
        stages: kills by the stage that the run was in.
        kills: processes killed in all.
        damaged: checkpoints damaged.
        fell_back: runs that went on from the checkpoint before a damaged one.
        redrawn: runs that drew secrets anew, none having been used before the kill.
        leftovers: half-written files left behind in all runs.
        failures: a sentence for each thing that is not as it must be.
    """

    kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    stages: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    kills: int = 0
    damaged: int = 0
    fell_back: int = 0
    redrawn: int = 0
    leftovers: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)

    def __add__(self, other: "Outcome") -> "Outcome":
        """Returns the outcome of the points of both."""
        names = [field.name for field in dataclasses.fields(self)]
        return Outcome(*(getattr(self, n) + getattr(other, n) for n in names))


class Points:
    """Runs points in a folder, with the processes that they need."""

    def __init__(self, folder: pathlib.Path, seed: int):
        """Makes two undisturbed runs, the second of which says how long one takes.

        Args:
            folder: an empty folder.
            seed: of the points and of the secrets.
        """
        self._folder = folder
        self._seed = seed
        # Children begin with everything imported and no device in use.
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["experiments.faults.warm"])
        self._endings: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        # multiprocessing reads a process's status once, whichever thread asks; another
        # that asks at the same moment is told 255. To start a process asks for all.
        self._asking = threading.Lock()
        self._undisturbed(1)  # compiles
        start = time.perf_counter()
        self._undisturbed(0)
        self._seconds = time.perf_counter() - start
        self.operations = int((folder / "count").read_text())

    def run(self, number: int) -> Outcome:
        """Runs one point; several threads may run some each.

        Args:
            number: which; seeds all its choices.

        Returns:
            What became of it.
        """
        outcome = Outcome()
        # Not hash(): it differs between processes for texts, and between versions.
        dice = random.Random(f"{self._seed} {number}")
        kind = dice.choice(_KINDS)
        outcome.kinds[kind] += 1
        workdir = self._folder / f"point_{number}"
        errors = self._folder / f"point_{number}.txt"

        def fail(what: str) -> None:
            outcome.failures.append(f"Point {number} ({kind}): {what}")

        kills = 1 + (dice.random() < _SECOND_KILL)
        before = observe.Progress(0, -1, 0, None, "start")
        for attempt in range(_ATTEMPTS):
            status = self._attempt(
                workdir, attempt, kind if attempt < kills else None, dice, errors
            )
            if status == 0:
                break
            if status != -signal.SIGKILL or attempt >= kills:
                fail(f"attempt {attempt} ended with status {status}: {_tail(errors)}")
                return outcome
            now = observe.progress_of(workdir, self._seed, attempt + 1)
            outcome.kills += 1
            outcome.stages[now.stage] += 1
            _check_progress(before, now, fail)
            before = now
            if kind == DAMAGE and _cut_newest_short(workdir, dice):
                outcome.damaged += 1
        now = observe.progress_of(workdir, self._seed, attempt + 1)
        _check_progress(before, now, fail)
        outcome.redrawn += now.attempt not in (0, None)
        outcome.fell_back += (workdir / "checkpoints" / "damaged").is_dir()
        outcome.leftovers += len(observe.leftovers(workdir))
        expected, found = self._undisturbed(now.attempt), observe.ending(workdir)
        for name, value in expected.items():
            if found[name] != value:
                fail(f"{name}: {found[name]!r:.200} instead of {value!r:.200}")
        shutil.rmtree(workdir)
        errors.unlink()
        return outcome

    def _undisturbed(self, attempt: int) -> dict[str, Any]:
        """Returns how a run with the secrets of an attempt ends if nothing happens."""
        with self._lock:
            if attempt not in self._endings:
                workdir = self._folder / f"undisturbed_{attempt}"
                errors = self._folder / f"undisturbed_{attempt}.txt"
                process = self._start(workdir, attempt, None, errors)
                if self._status(process):
                    raise RuntimeError(f"an undisturbed run failed: {_tail(errors)}")
                self._endings[attempt] = observe.ending(workdir)
            return self._endings[attempt]

    def _attempt(
        self,
        workdir: pathlib.Path,
        attempt: int,
        kind: str | None,
        dice: random.Random,
        errors: pathlib.Path,
    ) -> int:
        """Starts a process, kills it or not, and returns its status."""
        kill_at = None
        if kind in (OPERATION, DAMAGE):
            # Between the second checkpoint and the last, if it is to be damaged.
            first, last = (0.4, 0.8) if kind == DAMAGE else (0, 1)
            kill_at = dice.randint(
                round(first * self.operations) + 1, round(last * self.operations)
            )
        process = self._start(workdir, attempt, kill_at, errors)
        if kind == MOMENT:
            connection.wait([process.sentinel], dice.uniform(0, self._seconds))
            with self._asking:
                process.kill()
        return self._status(process)

    def _status(self, process: multiprocessing.process.BaseProcess) -> int:
        """Waits for a process to end and returns its status."""
        connection.wait([process.sentinel])
        with self._asking:
            process.join()
        return process.exitcode

    def _start(
        self,
        workdir: pathlib.Path,
        attempt: int,
        kill_at: int | None,
        errors: pathlib.Path,
    ) -> multiprocessing.process.BaseProcess:
        process = self._processes.Process(
            target=job.work,
            args=(
                workdir,
                self._seed,
                attempt,
                kill_at,
                errors,
                self._folder / "count",
            ),
        )
        with self._asking:
            process.start()
        return process


def _check_progress(
    before: observe.Progress, now: observe.Progress, fail: Callable[[str], None]
) -> None:
    """Checks what must hold at every moment."""
    if now.counted < max(now.newest, now.logged):
        fail(f"the ledger counts {now.counted} steps: {now}")
    if now.counted < before.counted:
        fail(f"the ledger went back from {before.counted} to {now.counted} steps")
    if before.attempt is not None and now.attempt != before.attempt:
        fail(f"other secrets than before: {before}, {now}")
    if now.attempt == -1:
        fail("secrets that nobody has drawn")
    if now.counted and now.attempt is None:
        fail(f"steps are counted, and no checkpoint holds their secrets: {now}")


def _cut_newest_short(workdir: pathlib.Path, dice: random.Random) -> bool:
    """Damages the newest checkpoint of a run that is not at its end, as a power cut."""
    steps = observe.checkpoint_steps(workdir)
    if len(steps) < 2 or steps[-1] == job.STEPS:
        return False
    folder = workdir / "checkpoints" / str(steps[-1])
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    # The secrets would be missed by the comparison of attempts.
    path = dice.choice([p for p in files if p.parent.name != "private"])
    os.truncate(path, dice.randrange(path.stat().st_size))
    return True


def _tail(errors: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return " | ".join(errors.read_text().splitlines()[-3:])[-400:]
    return "(silent)"
