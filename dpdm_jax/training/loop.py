"""The training run: the only training code that reads data and writes files."""

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dpdm_jax import data, planning, run_dir, validate
from dpdm_jax.errors import InputError
from dpdm_jax.model import Model, build_model
from dpdm_jax.privacy import Ledger, PrivacyPlan, format_epsilon
from dpdm_jax.privacy.batch_selection import pad_indices
from dpdm_jax.progress import progress_bar
from dpdm_jax.training import rngs
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.interrupts import Interrupted, deferred_interrupts
from dpdm_jax.training.metrics import PRIVATE, MetricsLog, private_diagnostics
from dpdm_jax.training.secrets import Secrets, fixed_secrets, fresh_secrets
from dpdm_jax.training.state import TrainState, create_state
from dpdm_jax.training.step import DATA_AXIS, Diagnostics, TrainStep

_log = logging.getLogger(__name__)

# Fields that move the data, or the speed, but not the gradients.
_MAY_CHANGE = frozenset(
    {
        "data.path",
        "train.engine",
        "train.engine_microbatch_size",
        "train.microbatch_size",
        "train.stop_after_steps",
    }
)

#: ``snapshot(model, ema_params, step)`` looks at a model in training.
Snapshot = Callable[[Model, Any, int], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to take its next step.

    Attributes:
        config: the whole config.
        workdir: the run directory.
        plan: the privacy plan.
        source: the training data.
        model: what is trained.
        step_fns: the compiled step.
        mesh: the devices.
        secrets: the private randomness.
        ledger: authorises steps.
        checkpoints: of this run.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    plan: PrivacyPlan
    source: data.Source
    model: Model
    step_fns: TrainStep
    mesh: Mesh
    secrets: Secrets
    ledger: Ledger
    checkpoints: Checkpoints


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    snapshot: Snapshot | None = None,
) -> TrainState:
    """Trains a model, or goes on with a run that was interrupted.

    The same batches and the same noise are replayed for the steps after the newest
    checkpoint, so an interruption costs no privacy and changes no result.

    Args:
        config: the whole config.
        workdir: the run directory, created if need be.
        snapshot: called every ``log.snapshot_every_steps`` steps.

    Returns:
        The last state.

    Raises:
        InputError: a field is out of range, the data does not fit, the directory holds
            a run under another mechanism or of another model, or the budget is spent.
    """
    with contextlib.ExitStack() as resources:
        run, state = _prepare(config, workdir, resources)
        stop = run.plan.num_steps
        if config.train.stop_after_steps:
            stop = min(stop, config.train.stop_after_steps)
        if int(state.step) >= stop:
            raise InputError(_finished_message(run, int(state.step)))
        if int(state.step):
            _log.info("Resuming %s after step %d.", workdir, int(state.step))
        return _run_steps(run, state, stop, snapshot)


def _finished_message(run: Run, done: int) -> str:
    if done < run.plan.num_steps:
        return (
            f"train.stop_after_steps is {run.config.train.stop_after_steps} and the "
            f"run has taken {done} steps; allowed: more than that, or 0 for all "
            f"{run.plan.num_steps}."
        )
    spent = format_epsilon(run.ledger.epsilon_spent())
    return (
        f"The privacy budget of {run.workdir} is spent: all {done} planned steps were "
        f"taken (epsilon {spent}); allowed: sampling from it, or training anew on data "
        "whose total budget you have thought through, in another --workdir."
    )


def _prepare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    resources: contextlib.ExitStack,
) -> tuple[Run, TrainState]:
    """Checks everything that can be checked before a file is written, then opens.

    What it opens is closed with ``resources``.
    """
    _check(config)
    devices = jax.devices()
    planning.check_microbatch(config.train.microbatch_size, len(devices))
    mesh = Mesh(np.array(devices), (DATA_AXIS,))
    source = data.load_source(config.data, "train")
    problem = planning.problem_of(source)
    plan = planning.privacy_plan(config, problem.num_examples)
    model = build_model(config, problem.image_shape, problem.num_classes)
    fixed = config.privacy.fixed_keys_seed
    secrets = fresh_secrets() if fixed is None else fixed_secrets(fixed)
    training = build_training(config, plan, model, secrets.noise_key, mesh)

    workdir.mkdir(parents=True, exist_ok=True)
    resources.enter_context(run_dir.locked(workdir))
    ledger_path = workdir / run_dir.LEDGER
    if ledger_path.exists():
        ledger = Ledger.open(ledger_path, plan, fixed_keys=fixed is not None)
    else:
        ledger = None
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    resources.callback(checkpoints.close)

    params = model.network.init(rngs.stream(config.seed, "init"))
    everywhere = NamedSharding(mesh, P())
    state = jax.device_put(
        create_state(params, training.optimizer, training.noise), everywhere
    )
    if checkpoints.steps():
        if ledger is None:
            raise InputError(
                f"{workdir} has checkpoints but no {run_dir.LEDGER}, so what was spent "
                "is unknown; allowed: a run directory with its ledger, or a new one."
            )
        restored = checkpoints.restore_latest(model, state)
        if restored.run_id != ledger.run_id:
            raise InputError(
                f"The checkpoints of {workdir} are of run {restored.run_id} and its "
                f"ledger of run {ledger.run_id}; allowed: one run in a directory."
            )
        _check_unchanged(restored.config, run_dir.to_json_values(config))
        secrets = restored.secrets
        state = jax.device_put(restored.state, everywhere)
    elif ledger is not None and ledger.authorized_steps:
        raise InputError(
            f"The ledger of {workdir} counts {ledger.authorized_steps} steps but no "
            "checkpoint is left to go on from; allowed: a new run directory, whose "
            "budget adds to this one's."
        )

    if ledger is None:
        ledger = Ledger.create(ledger_path, plan, fixed_keys=fixed is not None)
    run = Run(
        config=config,
        workdir=workdir,
        plan=plan,
        source=source,
        model=model,
        step_fns=training.step_fns,
        mesh=mesh,
        secrets=secrets,
        ledger=ledger,
        checkpoints=checkpoints,
    )
    run_dir.write_json(workdir / run_dir.CONFIG, config)
    if not checkpoints.steps():
        # The secrets must be on disk before the first step uses them: a run killed in
        # its first steps then repeats their noise instead of drawing it anew.
        _save(run, state)
    return run, state


def _check_unchanged(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume with other gradients under the noise of steps already taken.

    Steps after the newest checkpoint are taken again with the noise they had. If their
    sums were different ones, whoever saw something of both could subtract the noise.
    """
    changed = [
        f"{group}.{field} {old[group].get(field)!r} -> {value!r}"
        for group in ("data", "network", "diffusion", "train")
        for field, value in new[group].items()
        if old[group].get(field) != value and f"{group}.{field}" not in _MAY_CHANGE
    ]
    if old["seed"] != new["seed"]:
        changed.append(f"seed {old['seed']} -> {new['seed']}")
    if changed:
        raise InputError(
            f"The run was started with other settings ({', '.join(changed)}); allowed "
            "to change on resuming: logging, checkpoints, samples and "
            f"{', '.join(sorted(_MAY_CHANGE))}."
        )


def _check(config: ml_collections.ConfigDict) -> None:
    for name in ("every_steps", "keep"):
        validate.integer(f"checkpoint.{name}", config.checkpoint[name], minimum=1)
    validate.integer("log.every_steps", config.log.every_steps, minimum=1)
    for name in ("snapshot_every_steps", "snapshot_per_class"):
        validate.integer(f"log.{name}", config.log[name], minimum=0)
    validate.integer("train.stop_after_steps", config.train.stop_after_steps, minimum=0)
    validate.integer(
        "train.engine_microbatch_size", config.train.engine_microbatch_size, minimum=0
    )
    validate.real("train.ema_decay", config.train.ema_decay, minimum=0, below=1)


def _run_steps(
    run: Run, state: TrainState, stop: int, snapshot: Snapshot | None
) -> TrainState:
    config, plan = run.config, run.plan
    every = config.checkpoint.every_steps
    metrics = MetricsLog(run.workdir, tensorboard=config.log.tensorboard)
    progress = progress_bar("training", stop, done=int(state.step))
    examples_since, since = 0, time.perf_counter()
    try:
        with deferred_interrupts() as stop_if_asked:
            for step in range(int(state.step), stop):
                # Up to the next checkpoint at once: after a crash the run goes on from
                # the one before it and takes these steps again.
                run.ledger.authorize(min(stop, (step // every + 1) * every))
                state, sums, examples = _logical_step(run, state, step, stop_if_asked)
                examples_since += examples
                done = step + 1
                progress.update()
                if done % config.log.every_steps == 0 or done == stop:
                    diagnostics = private_diagnostics(jax.device_get(sums))
                    rate = examples_since / (time.perf_counter() - since)
                    spent = plan.epsilon_spent(done)
                    diagnostics[f"{PRIVATE}images_per_second"] = rate
                    metrics.write(done, {"epsilon": spent} | diagnostics)
                    progress.set_postfix_str(
                        f"{rate:.0f} images/s, epsilon {format_epsilon(spent)} of "
                        f"{plan.target_epsilon:g}"
                    )
                    examples_since, since = 0, time.perf_counter()
                if done % every == 0 or done == stop:
                    _save(run, state)
                if snapshot is not None and _is_snapshot(config, done):
                    snapshot(run.model, state.ema_params, done)
    except Interrupted:
        _save(run, state)  # as it was after the last whole step
        raise
    finally:
        progress.close()
        metrics.close()
    return state


def _is_snapshot(config: ml_collections.ConfigDict, done: int) -> bool:
    every = config.log.snapshot_every_steps
    return bool(every) and done % every == 0


def _logical_step(
    run: Run, state: TrainState, step: int, stop_if_asked: Callable[[], None]
) -> tuple[TrainState, Diagnostics, int]:
    """Runs one step; also returns its private sums and number of examples."""
    indices = run.plan.sampling.indices(
        len(run.source), run.secrets.selection_seed, step
    )
    key = run.secrets.loss_key(step)
    partial = run.step_fns.start(state.params)
    for arrays in _microbatches(run, indices):
        stop_if_asked()
        partial = run.step_fns.accumulate(partial, state.params, *arrays, key)
    state, sums = run.step_fns.finish(state, partial)
    return state, sums, len(indices)


def _microbatches(run: Run, indices: np.ndarray) -> Iterator[tuple[jax.Array, ...]]:
    """Cuts a logical batch into padded device arrays of one shape."""
    size = run.config.train.microbatch_size
    padded = pad_indices(indices, size)
    sharding = NamedSharding(run.mesh, P(DATA_AXIS))
    for start in range(0, len(padded), size):
        batch = data.load_batch(run.source, padded[start : start + size])
        positions = np.arange(start, start + size, dtype=np.int32)
        yield jax.device_put((*batch, positions), sharding)


def _save(run: Run, state: TrainState) -> None:
    if int(state.step) in run.checkpoints.steps():
        return
    run.checkpoints.save(
        run.model,
        state,
        run.secrets,
        run_id=run.ledger.run_id,
        config=run_dir.to_json_values(run.config),
        ledger=run.ledger.record.to_dict(),
    )
