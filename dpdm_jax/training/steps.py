"""The steps of a run: authorised, taken, told of and kept."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import devices, processes
from dpdm_jax.errors import Interrupted
from dpdm_jax.models import partition
from dpdm_jax.models.model import Model
from dpdm_jax.privacy import GaussianNoiseState, format_epsilon, units
from dpdm_jax.progress import progress_bar
from dpdm_jax.training import divergence, power_averages
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.interrupts import deferred_interrupts
from dpdm_jax.training.logical_step import Mechanism, take_step
from dpdm_jax.training.metrics import MetricsLog, private_diagnostics
from dpdm_jax.training.run import Run, save
from dpdm_jax.training.state import TrainState
from dpdm_jax.training.step import Diagnostics
from dpdm_jax.training.writers import registry
from dpdm_jax.training.writers.base import About

#: ``snapshot(model, params, step)`` looks at the averaged weights of a model in
#: training, as of ``Model.merged``.
Snapshot = Callable[[Model, Any, int], None]
_log = logging.getLogger(__name__)


def run_steps(
    run: Run, state: TrainState, stop: int, snapshot: Snapshot | None
) -> TrainState:
    """Takes steps, each authorised before it is taken, and keeps what they make.

    Args:
        run: the run.
        state: where it stands.
        stop: how many steps of the run are taken at the end.
        snapshot: see ``Snapshot``.

    Returns:
        The last state.

    Raises:
        Interrupted: after the step in progress was finished and kept.
        InputError: the weights are no longer finite where they would be kept.
    """
    config = run.config
    every = config.checkpoint.every_steps
    average_every = power_averages.interval(
        config.checkpoint.average_every_steps, run.plan.phases[0].total_steps
    )
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
                if state.power_averages and done % average_every == 0:
                    run.checkpoints.save_averages(state)
                if done % every == 0 or done == stop:
                    with processes.together():
                        divergence.check((state.params, state.averages), done, "train")
                    save(run, state)
                if snapshot is not None and _is_snapshot(config, done):
                    average = devices.place(
                        state.ema_params, devices.replicated(run.mesh)
                    )
                    average = partition.join(average, run.fixed)
                    snapshot(run.model, run.model.merged(average), done)
    except Interrupted:
        save(run, state)  # as it was after the last whole step
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
        run.model.trained_loss(),
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
        encode=run.encode,
        groups=run.groups,
    )
    return phase, dataclasses.replace(state, noise_state=noise_state)


class _Reporter:
    """Tells of the steps: on the screen and in the metrics of the run."""

    def __init__(self, run: Run, stop: int, done: int):
        self._run = run
        self._stop = stop
        log, record = run.config.log, run.ledger.record
        facts = registry.flat(run.plan.to_dict())
        if record.not_private:
            facts |= {"not_private": "; ".join(record.not_private)}
        about = About(
            name=run.config.name,
            run_id=record.run_id,
            project=log.project,
            facts=facts,
            workdir=run.workdir,
        )
        self._metrics = MetricsLog(
            run.workdir,
            tensorboard=log.tensorboard,
            followers=registry.Followers(log, about),
        )
        self._progress = progress_bar("training", stop, done=done)
        self._watch = divergence.GradientWatch()
        self._examples, self._since = 0, time.perf_counter()

    def took_step(self, done: int, sums: Diagnostics, examples: int) -> None:
        self._examples += examples
        self._progress.update()
        if done % self._run.config.log.every_steps != 0 and done != self._stop:
            return
        sums = jax.device_get(sums)
        diagnostics = private_diagnostics(sums)
        if self._watch.is_time_to_warn(sums):
            # On the owner's screen alone: no file that is published says so.
            _log.warning(
                "PRIVATE: in %d logged steps in a row no example had a finite "
                "gradient; all were left out, and such steps are noise alone.",
                divergence.PATIENCE,
            )
        rate = self._examples / (time.perf_counter() - self._since)
        # With known keys there is no guarantee, whatever the plan would give.
        is_fixed = self._run.ledger.record.fixed_keys
        spent = math.inf if is_fixed else self._run.plan.epsilon_spent(done)
        diagnostics[f"{registry.PRIVATE}images_per_second"] = rate
        self._metrics.write(done, {"epsilon": spent} | diagnostics)
        plan = self._run.plan
        self._progress.set_postfix_str(
            f"{rate:.0f} {units.noun(plan.unit)}s/s, epsilon {format_epsilon(spent)} "
            f"of {plan.target_epsilon:g}"
        )
        self._examples, self._since = 0, time.perf_counter()

    def close(self) -> None:
        self._progress.close()
        self._metrics.close()


def _is_snapshot(config: ml_collections.ConfigDict, done: int) -> bool:
    every = config.log.snapshot_every_steps
    return bool(every) and done % every == 0
