"""The training run: the only training code that reads data and writes files.

It is prepared or resumed (``prepare``, ``resume``), then takes its steps (``steps``).
With several processes each runs this program: all take the same decisions, each reads
the examples of its own devices, and process 0 alone draws secrets and writes.
"""

import contextlib
import logging
import pathlib

import ml_collections

from dpdm_jax import jax_settings, processes
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import format_epsilon
from dpdm_jax.training import arithmetic
from dpdm_jax.training.beginning import ReadInitial
from dpdm_jax.training.latents import with_laws
from dpdm_jax.training.prepare import prepare
from dpdm_jax.training.run import Run
from dpdm_jax.training.state import TrainState
from dpdm_jax.training.steps import Snapshot, run_steps
from dpdm_jax.training.writers import registry as writers

_log = logging.getLogger(__name__)


@jax_settings.pinned()
def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    snapshot: Snapshot | None = None,
    read_initial: ReadInitial | None = None,
) -> TrainState:
    """Trains a model, or goes on with a run that was interrupted.

    The same batches and the same noise are replayed for the steps after the newest
    checkpoint, so an interruption costs no privacy and changes no result.

    Args:
        config: the whole config.
        workdir: the run directory, created if need be.
        snapshot: called every ``log.snapshot_every_steps`` steps.
        read_initial: reads the weights that a new run begins with; None for random
            ones.

    Returns:
        The last state.

    Raises:
        InputError: a field is out of range, the data does not fit, the directory holds
            a run under another mechanism or of another model, or the budget is spent.
    """
    with processes.together():  # before anything is made
        writers.check(config.log)
    with contextlib.ExitStack() as resources:
        run, state = prepare(config, workdir, resources, read_initial)
        stop = run.plan.total_steps
        if config.train.stop_after_steps:
            stop = min(stop, config.train.stop_after_steps)
        with processes.together():
            if int(state.step) >= stop:
                raise InputError(_finished_message(run, int(state.step)))
        processes.from_first(lambda: arithmetic.begin(workdir, int(state.step), config))
        if int(state.step):
            _log.info("Resuming %s after step %d.", workdir, int(state.step))
        return run_steps(with_laws(run), state, stop, snapshot)


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
