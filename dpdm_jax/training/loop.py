"""The training run: the only training code that reads data and writes files.

With several processes each runs this program: all take the same decisions, each reads
the examples of its own devices, and process 0 alone draws secrets and writes.
"""

import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from dpdm_jax import data, devices, planning, processes, queries, run_dir, validate
from dpdm_jax.errors import InputError, Interrupted
from dpdm_jax.models import partition
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.privacy import (
    GaussianNoiseState,
    Ledger,
    LedgerRecord,
    PrivacyPlan,
    format_epsilon,
)
from dpdm_jax.progress import progress_bar
from dpdm_jax.training import rngs
from dpdm_jax.training.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    Restored,
)
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.interrupts import deferred_interrupts
from dpdm_jax.training.logical_step import Mechanism, take_step
from dpdm_jax.training.mechanism_version import check_version
from dpdm_jax.training.metrics import PRIVATE, MetricsLog, private_diagnostics
from dpdm_jax.training.secrets import Secrets, fixed_secrets, fresh_secrets
from dpdm_jax.training.shared_ledger import SharedLedger
from dpdm_jax.training.state import TrainState, create_state
from dpdm_jax.training.step import Diagnostics

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
        plan: the privacy plan, with those that it extends.
        source: the training data, bound to ``content``.
        content: digest of all of the training data, private; see ``data.bind``.
        model: what is trained.
        fixed: its parameters that no step changes, on all devices.
        mesh: the devices.
        secrets: the private randomness that the run was begun with.
        ledger: authorises steps.
        checkpoints: of this run.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    plan: PrivacyPlan
    source: data.Source
    content: bytes
    model: Model
    fixed: Any
    mesh: Mesh
    secrets: Secrets
    ledger: SharedLedger
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
        stop = run.plan.total_steps
        if config.train.stop_after_steps:
            stop = min(stop, config.train.stop_after_steps)
        with processes.together():
            if int(state.step) >= stop:
                raise InputError(_finished_message(run, int(state.step)))
        if int(state.step):
            _log.info("Resuming %s after step %d.", workdir, int(state.step))
        return _run_steps(run, state, stop, snapshot)


def _finished_message(run: Run, done: int) -> str:
    if done < run.plan.total_steps:
        return (
            f"train.stop_after_steps is {run.config.train.stop_after_steps} and the "
            f"run has taken {done} steps; allowed: more than that, or 0 for all "
            f"{run.plan.total_steps}."
        )
    spent = format_epsilon(run.ledger.record.epsilon_spent())
    return (
        f"The privacy budget of {run.workdir} is spent: all {done} planned steps were "
        f"taken (epsilon {spent}); allowed: sampling from it, or more steps within a "
        "larger budget for the whole run, by --mode=extend."
    )


def _prepare(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    resources: contextlib.ExitStack,
) -> tuple[Run, TrainState]:
    """Checks everything that can be checked before a file is written, then opens.

    What it opens is closed with ``resources``.
    """
    with processes.together():
        _check(config)
        planning.check_microbatch(config.train.microbatch_size, jax.device_count())
    source = processes.first_goes_first(lambda: data.load_source(config.data, "train"))
    with processes.together(patiently=True):
        source, content = data.bind(source)
    processes.check_same("The training data", content.hex)
    problem = planning.problem_of(source)
    with processes.together():
        model = build_model(config, problem.image_shape, problem.num_classes)
    plan = PrivacyPlan.from_dict(
        processes.from_first(
            lambda: planning.privacy_plan(config, problem.num_examples, model).to_dict()
        )
    )
    fixed = config.privacy.fixed_keys_seed
    secrets = Secrets.from_dict(
        processes.from_first(
            lambda: (
                fresh_secrets() if fixed is None else fixed_secrets(fixed)
            ).to_dict()
        )
    )
    mesh = devices.data_mesh()
    with processes.together():
        training = build_training(
            config, plan, model.trained_loss(config.diffusion), secrets.noise_key, mesh
        )

    ledger_path = workdir / run_dir.LEDGER
    begun = processes.from_first(lambda: _claim(workdir, resources))
    ledger = None
    if begun:
        ledger = SharedLedger(
            lambda: Ledger.open(ledger_path, plan, fixed_keys=fixed is not None)
        )
    checkpoints = Checkpoints(workdir, keep=config.checkpoint.keep)
    resources.callback(checkpoints.close)

    params, fixed = model.split(
        processes.same_arrays(model.init(rngs.stream(config.seed, "init")))
    )
    everywhere = devices.replicated(mesh)
    state, fixed = devices.place(
        (create_state(params, training.optimizer, training.noise), fixed), everywhere
    )
    if checkpoints.steps():
        restored = _restore(
            workdir, checkpoints, ledger, model, (state, fixed), config, content
        )
        secrets = restored.secrets
        state, fixed = restored.state, restored.fixed
    elif ledger is not None and ledger.record.authorized_steps:
        with processes.together():
            raise InputError(
                f"The ledger of {workdir} counts {ledger.record.authorized_steps} "
                "steps but no checkpoint is left to go on from; allowed: a new run "
                "directory, whose budget adds to this one's."
            )
    state, fixed = devices.place((state, fixed), everywhere)

    if ledger is None:
        ledger = SharedLedger(
            lambda: Ledger.create(ledger_path, plan, fixed_keys=fixed is not None)
        )
    run = Run(
        config=config,
        workdir=workdir,
        plan=ledger.record.plan,
        source=source,
        content=content,
        model=model,
        fixed=fixed,
        mesh=mesh,
        secrets=secrets,
        ledger=ledger,
        checkpoints=checkpoints,
    )
    processes.from_first(lambda: run_dir.write_json(workdir / run_dir.CONFIG, config))
    if not checkpoints.steps():
        # The secrets must be on disk before the first step uses them: a run killed in
        # its first steps then repeats their noise instead of drawing it anew.
        _save(run, state)
    if int(state.step) == 0:
        run = dataclasses.replace(run, fixed=_asked(run))
    return run, state


def _asked(run: Run) -> Any:
    """Returns the fixed parameters, as far as queries fill them in.

    The ledger counts the queries since it was created, and their noise is that of the
    run: one that was killed before its first step asks the same again.
    """
    fixed = run.fixed
    for query in queries.of_run(run.config, run.model):
        key = run.secrets.query_key(query.planned.name)
        with processes.together():
            answer = query.answer(run.source, key)
        # What follows from noised sums in floating point may differ between machines.
        answer = processes.same_arrays(answer)
        fixed = fixed | devices.place(answer, devices.replicated(run.mesh))
    return fixed


def _claim(workdir: pathlib.Path, resources: contextlib.ExitStack) -> bool:
    """Locks the run directory; says whether a run has begun in it."""
    run_dir.make_folder(workdir)
    resources.enter_context(run_dir.locked(workdir))
    for name in (run_dir.LEDGER, run_dir.CONFIG):
        for unfinished in workdir.glob(f".{name}.*"):  # by a killed process
            unfinished.unlink()
    return (workdir / run_dir.LEDGER).exists()


def _restore(
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    ledger: SharedLedger | None,
    model: Model,
    template: tuple[TrainState, Any],
    config: ml_collections.ConfigDict,
    content: bytes,
) -> Restored:
    """Reads the newest sound checkpoint, if it is one of this run.

    Damaged ones are put aside once an earlier one was found sound; from there the run
    takes the steps between again, with the same batches and noise. Without a sound one
    there is nothing to go on from: new secrets would make it another run, whose privacy
    loss adds to that of the steps already counted.
    """
    with processes.together():
        if ledger is None:
            raise InputError(
                f"{workdir} has checkpoints but no {run_dir.LEDGER}, so what was spent "
                "is unknown; allowed: a run directory with its ledger, or a new one."
            )
    values = run_dir.to_json_values(config)
    damaged: dict[int, str] = {}
    for step in reversed(checkpoints.steps()):
        damage = None
        with processes.together():  # what Orbax reads, all read alike
            try:
                restored = checkpoints.restore(
                    step,
                    model,
                    *template,
                    lambda stored: _check_is_of_run(
                        workdir, stored, ledger.record, values
                    ),
                )
            except DamagedCheckpointError as e:
                damage = e.damage
        processes.check_same("What is damaged", lambda d=damage: d is not None)
        if damage is None:
            break
        damaged[step] = damage
    with processes.together():
        if len(damaged) == len(checkpoints.steps()):
            raise InputError(
                f"{damaged[max(damaged)]}, and no checkpoint before it is sound; "
                "allowed: a backup of one of them beside the present "
                f"{run_dir.LEDGER}, or a new run directory, whose budget adds to this "
                "one's."
            )
        newest = max(checkpoints.steps())
        if newest > ledger.record.authorized_steps:
            raise InputError(
                f"{workdir} has a checkpoint of step {newest} and its ledger counts "
                f"{ledger.record.authorized_steps}; allowed: a ledger that counts "
                "every step."
            )
        _check_secrets(checkpoints, damaged, restored.secrets)
        if restored.data_digest != restored.secrets.data_digest(content):
            raise InputError(
                f"The training data is not that which {workdir} was begun with, whose "
                "noise would go onto other sums; allowed: the same images, labels and "
                "order, or a new run directory."
            )
    for each, damage in damaged.items():
        kept = checkpoints.set_aside(each)
        _log.warning(
            "%s; it is kept as %s, and the run goes on from step %d.",
            damage,
            kept.relative_to(workdir),
            int(restored.state.step),
        )
    return restored


def _check_secrets(
    checkpoints: Checkpoints, damaged: Iterable[int], secrets: Secrets
) -> None:
    """Refuses to take steps again with other noise than they may have had."""
    for step in damaged:
        try:
            same = checkpoints.read_secrets(step).to_dict() == secrets.to_dict()
        except DamagedCheckpointError:
            continue  # not readable; the run's name has paired the checkpoints
        if not same:
            raise InputError(
                f"The damaged checkpoint of step {step} has other keys than those "
                "before it; allowed: checkpoints of one run in a directory."
            )


def _check_is_of_run(
    workdir: pathlib.Path,
    stored: dict[str, Any],
    record: LedgerRecord,
    config: dict[str, Any],
) -> None:
    """Checks a checkpoint's description against the ledger and the present config."""
    if stored["run_id"] != record.run_id:
        raise InputError(
            f"The checkpoints of {workdir} are of run {stored['run_id']} and its "
            f"ledger of run {record.run_id}; allowed: one run in a directory."
        )
    if not record.continues(LedgerRecord.from_dict(stored["ledger"])):
        raise InputError(
            f"The ledger of {workdir} counts less than its copy in a checkpoint, or "
            "something else; allowed: the run's newest ledger."
        )
    check_version(workdir, stored)
    _check_unchanged(stored["config"], config)


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
    validate.seed("seed", config.seed)
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
    config = run.config
    every = config.checkpoint.every_steps
    reporter = _Reporter(run, stop, int(state.step)) if processes.is_first() else None
    phase: Mechanism | None = None
    try:
        with deferred_interrupts() as stop_if_asked:
            for step in range(int(state.step), stop):
                if phase is None or step == phase.plan.total_steps:
                    phase, state = _enter_phase(run, state, step)
                # Up to the next checkpoint at once: after a crash the run goes on from
                # the one before it and takes these steps again.
                run.ledger.authorize(min(stop, (step // every + 1) * every))
                state, sums, examples = take_step(phase, state, step, stop_if_asked)
                done = step + 1
                if reporter is not None:
                    reporter.took_step(done, sums, examples)
                if done % every == 0 or done == stop:
                    _save(run, state)
                if snapshot is not None and _is_snapshot(config, done):
                    snapshot(
                        run.model, partition.join(state.ema_params, run.fixed), done
                    )
    except Interrupted:
        _save(run, state)  # as it was after the last whole step
        raise
    finally:
        if reporter is not None:
            reporter.close()
    return state


def _enter_phase(
    run: Run, state: TrainState, step: int
) -> tuple[Mechanism, TrainState]:
    """Returns what the steps of a step's phase are made of, and the state for them.

    A run that lost the checkpoint behind its first plan's steps takes the last of them
    again before those of the extension.
    """
    plans, counted = run.plan.phases, run.ledger.record.phases
    number = sum(step >= plan.total_steps for plan in plans)
    secrets = run.secrets.of_extension(counted[number].extension_id)
    training = build_training(
        run.config,
        plans[number],
        run.model.trained_loss(run.config.diffusion),
        secrets.noise_key,
        run.mesh,
    )
    # Counted from the run's first step, as batches and the draws of the loss are.
    noise_state = GaussianNoiseState(secrets.noise_key, np.int32(step))
    noise_state = devices.place(noise_state, devices.replicated(run.mesh))
    phase = Mechanism(
        plan=plans[number],
        source=run.source,
        step_fns=training.step_fns,
        fixed=run.fixed,
        mesh=run.mesh,
        secrets=secrets,
        microbatch_size=run.config.train.microbatch_size,
    )
    return phase, dataclasses.replace(state, noise_state=noise_state)


class _Reporter:
    """Tells of the steps: on the screen and in the metrics of the run."""

    def __init__(self, run: Run, stop: int, done: int):
        self._run = run
        self._stop = stop
        self._metrics = MetricsLog(run.workdir, tensorboard=run.config.log.tensorboard)
        self._progress = progress_bar("training", stop, done=done)
        self._examples, self._since = 0, time.perf_counter()

    def took_step(self, done: int, sums: Diagnostics, examples: int) -> None:
        self._examples += examples
        self._progress.update()
        if done % self._run.config.log.every_steps != 0 and done != self._stop:
            return
        diagnostics = private_diagnostics(jax.device_get(sums))
        rate = self._examples / (time.perf_counter() - self._since)
        spent = self._run.plan.epsilon_spent(done)
        diagnostics[f"{PRIVATE}images_per_second"] = rate
        self._metrics.write(done, {"epsilon": spent} | diagnostics)
        self._progress.set_postfix_str(
            f"{rate:.0f} images/s, epsilon {format_epsilon(spent)} of "
            f"{self._run.plan.target_epsilon:g}"
        )
        self._examples, self._since = 0, time.perf_counter()

    def close(self) -> None:
        self._progress.close()
        self._metrics.close()


def _is_snapshot(config: ml_collections.ConfigDict, done: int) -> bool:
    every = config.log.snapshot_every_steps
    return bool(every) and done % every == 0


def _save(run: Run, state: TrainState) -> None:
    if int(state.step) in run.checkpoints.steps():
        return
    run.checkpoints.save(
        run.model,
        state,
        run.fixed,
        run.secrets,
        run_id=run.ledger.record.run_id,
        config=run_dir.to_json_values(run.config),
        ledger=run.ledger.record.to_dict(),
        data_digest=run.secrets.data_digest(run.content),
    )
