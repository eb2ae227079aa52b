"""What a run directory says of itself: while it is under way, and at its end."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from dpdm_jax.privacy import read_ledger
from dpdm_jax.release import bundle
from experiments.faults import job


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come, read from its files alone.

    Attributes:
        counted: steps in its ledger; 0 without one.
        newest: step of its newest checkpoint; -1 without one.
        logged: last step in its metrics; 0 without any.
        attempt: the attempt whose secrets it has; None without a checkpoint.
        stage: "start", "train", "checkpoint", "sample", "release" or "end".
    """

    counted: int
    newest: int
    logged: int
    attempt: int | None
    stage: str


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
    """The steps with a complete checkpoint, increasing."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def progress_of(workdir: pathlib.Path, seed: int, attempts: int) -> Progress:
    """Reads how far a run has come.

    Args:
        workdir: the run directory; it need not exist.
        seed: of the secrets.
        attempts: attempts so far.
    """
    ledger = workdir / "privacy.json"
    steps = checkpoint_steps(workdir)
    newest = max(steps, default=-1)
    if (workdir / "release").is_dir():
        stage = "end"
    elif (workdir / "samples" / "samples" / "samples.npz").exists():
        stage = "release"
    elif newest == job.STEPS:
        stage = "sample"
    elif list((workdir / "checkpoints").glob("*tmp*")):
        stage = "checkpoint"
    else:
        stage = "train" if newest >= 0 else "start"
    return Progress(
        counted=read_ledger(ledger).authorized_steps if ledger.exists() else 0,
        newest=newest,
        logged=max((line["step"] for line in _metrics(workdir)), default=0),
        attempt=_drawn_by(workdir, newest, seed, attempts) if steps else None,
        stage=stage,
    )


def _drawn_by(workdir: pathlib.Path, step: int, seed: int, attempts: int) -> int:
    """Finds out which attempt's secrets a checkpoint has; -1 if nobody's."""
    path = workdir / "checkpoints" / str(step) / "private" / "metadata"
    stored = json.loads(path.read_text())
    for attempt in range(attempts):
        drawn = job.secrets_of(seed, attempt).to_dict()
        if all(stored[name] == value for name, value in drawn.items()):
            return attempt
    return -1


def ending(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns all that must be the same at the end, whatever happened on the way.

    Not the run's random name and the sums over it, nor the speed.
    """
    described = json.loads(
        (workdir / "checkpoints" / str(job.STEPS) / "meta" / "metadata").read_text()
    )
    ledger = read_ledger(workdir / "privacy.json")
    steps: dict[int, set[str]] = {}
    for line in _metrics(workdir):
        del line["private/images_per_second"]
        steps.setdefault(line["step"], set()).add(json.dumps(line))
    samples = workdir / "samples" / "samples"
    release = workdir / "release"
    manifest = release / bundle.MANIFEST
    text = (release / "PRIVACY.md").read_text().replace(_sum(manifest), "its sum")
    return {
        "parameters, average and optimizer": described["digests"],
        "ledger": _nameless(ledger.to_dict()),
        # A step that was taken twice has one and the same line twice.
        "batches, noise and losses of every step": {
            step: sorted(lines) for step, lines in steps.items()
        },
        "samples": _arrays(samples / "samples.npz"),
        "picture of samples": _sum(samples / "grid.png"),
        "settings of samples": _nameless(_json(samples / "settings.json")),
        "config": _json(workdir / "config.json"),
        "released files": sorted(path.name for path in release.rglob("*")),
        "released parameters": _sum(release / "params.safetensors"),
        "released samples": _arrays(release / "samples.npz"),
        "released statement": _nameless(_json(release / "PRIVACY.json")),
        "released text": text.replace(ledger.run_id[:8], "run"),
        "released manifest": _nameless(_json(manifest)),
        "released config": _json(release / "config.json"),
    }


def leftovers(workdir: pathlib.Path) -> list[str]:
    """Half-written files of killed processes that nobody has removed."""
    return sorted(
        path.relative_to(workdir).as_posix()
        for path in workdir.rglob(".*")
        if path.name != ".lock"
    )


def _metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
    path = workdir / "metrics.jsonl"
    if not path.exists():
        return []
    # What follows the last line feed is half a line.
    *whole, _ = path.read_text().split("\n")
    return [json.loads(line) for line in whole]


def _json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text())


def _nameless(value: Any) -> Any:
    """Leaves out the run's random name and what depends on it."""
    if isinstance(value, dict):
        return {
            name: _nameless(inner)
            for name, inner in value.items()
            # The manifest has the name; it is compared by itself.
            if name not in ("run_id", "checksum", bundle.MANIFEST)
        }
    if isinstance(value, list):
        return [_nameless(inner) for inner in value]
    return value


def _sum(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _arrays(path: pathlib.Path) -> dict[str, str]:
    with np.load(path) as archive:
        return {
            name: hashlib.sha256(archive[name].tobytes()).hexdigest()
            for name in archive.files
        }
