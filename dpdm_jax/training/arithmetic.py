"""What the last bits of gradients depend on, besides the data and the mechanism.

Noise and batches are the same on all devices and by all engines; a gradient is rounded
by the program that computes it. A run that takes steps again puts the noise that they
had onto sums that may differ in these bits, and whoever has something of both ends
could subtract them.
"""

import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from dpdm_jax import files, json_values, run_dir
from dpdm_jax.errors import InputError

#: Under which a checkpoint's description has it.
ARITHMETIC = "arithmetic"
# Fields of ``config.train`` that may change in a run.
_FIELDS = ("engine", "engine_microbatch_size", "microbatch_size", "sharded_state")


def described() -> dict[str, Any]:
    """Describes what this process computes with, for a checkpoint: JSON values."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return {
        "device": f"{jax.default_backend()}, {jax.devices()[0].device_kind}",
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "matmul_precision": precision,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def begin(workdir: pathlib.Path, step: int, config: ml_collections.ConfigDict) -> None:
    """Notes, before the first step, what a session computes with.

    One that ends before its first checkpoint may have shown something of its steps.

    Args:
        workdir: the run directory.
        step: from which the session goes on.
        config: the whole config.
    """
    now = {
        "step": step,
        ARITHMETIC: described(),
        "config": {"train": {name: config.train[name] for name in _FIELDS}},
    }
    sessions = _sessions(workdir)
    if not sessions or sessions[-1] | {"step": step} != now:
        files.write_json(workdir / run_dir.SESSIONS, [*sessions, now])


def _sessions(workdir: pathlib.Path) -> list[dict[str, Any]]:
    path = workdir / run_dir.SESSIONS
    if not path.exists():  # of earlier versions
        return []
    try:
        sessions = json_values.loads(path.read_bytes())
        if all(isinstance(each["step"], int) for each in sessions):
            return list(sessions)
    except (KeyError, OSError, TypeError, ValueError):
        pass
    raise InputError(
        f"{path} is damaged; allowed: a backup of it, or a new run directory, whose "
        "budget adds to this one's."
    )


def check_taken_again(
    workdir: pathlib.Path,
    step: int,
    stored: dict[str, Any],
    config: ml_collections.ConfigDict,
    *,
    authorized_steps: int,
    is_kept: bool,
) -> None:
    """Refuses to take steps again otherwise of which something was made.

    Steps that left nothing but what their owner alone may read can be taken anywhere.

    Args:
        workdir: the run directory.
        step: from which the run goes on.
        stored: the description of its checkpoint.
        config: the whole config.
        authorized_steps: steps that may have been taken.
        is_kept: whether weights of later steps were kept: a later checkpoint.

    Raises:
        InputError: steps behind the checkpoint may have been taken otherwise, and their
            weights, or images or a release of them, were there.
    """
    since = [each for each in _sessions(workdir) if each["step"] >= step]
    found = (_differences(each, config) for each in (stored, *since))
    differences = sorted({one for each in found for one in each})
    if authorized_steps <= step or not differences:
        return
    shown = "a checkpoint" if is_kept else _shown_since(workdir, step)
    if shown is None:
        return
    raise InputError(
        f"{workdir} goes on from step {step}, of later steps there was {shown}, and "
        f"taken again they would be rounded otherwise under the same noise "
        f"({'; '.join(differences)}); allowed: the same, or a new run directory, whose "
        "budget adds to this one's."
    )


def _differences(
    stored: dict[str, Any], config: ml_collections.ConfigDict
) -> Iterator[str]:
    # Checkpoints of 0.1 do not have it.
    then, now = stored.get(ARITHMETIC) or {}, described()
    for name, value in then.items():
        if name in now and now[name] != value:
            yield f"{name}: {value} then, {now[name]} now"
    trained = stored["config"].get("train", {})
    for name in _FIELDS:
        value = config.train[name]
        if name in trained and trained[name] != value:
            yield f"train.{name}: {trained[name]} then, {value} now"


def _shown_since(workdir: pathlib.Path, step: int) -> str | None:
    """Returns what was made of later steps, if anything is left of it."""
    samples = workdir / run_dir.SAMPLES
    for path in sorted((samples / run_dir.SNAPSHOTS).glob("*.png")):
        found = re.fullmatch(r"step_(\d+)", path.stem)
        if found and int(found[1]) > step:
            return f"the picture {path.relative_to(workdir)}"
    for path in sorted((workdir / run_dir.CHECKPOINTS / run_dir.DAMAGED).glob("*")):
        found = re.match(r"\d+", path.name)
        if found and int(found[0]) > step:
            return "a checkpoint"
    stated = [*samples.glob(f"*/{run_dir.SETTINGS}")]
    stated.append(workdir / run_dir.RELEASE / run_dir.MANIFEST)
    for path in stated:
        try:
            made_at = json.loads(path.read_bytes()).get("step")
        except (AttributeError, OSError, ValueError):
            continue  # there is none, or it is not readable
        if isinstance(made_at, int) and made_at > step:
            return f"{path.relative_to(workdir)}"
    return None
