"""What each mode of the command line does, from config to words on the screen."""

import json
import pathlib

import ml_collections

from dpdm_jax import compilation, planning, run_dir
from dpdm_jax.evaluation import run as evaluation_run
from dpdm_jax.privacy import read_ledger, statement
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.sampling.snapshot import SnapshotWriter
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train as train_model


def plan(
    config: ml_collections.ConfigDict, *, as_json: bool, compile_for: str | None
) -> None:
    """Prints what a run would do; reads no data beyond its size.

    Args:
        config: the whole config.
        as_json: print one JSON line.
        compile_for: a target whose compiler says what the programs need, in place of an
            estimate for this machine; see ``compilation.compile_report``.
    """
    # Before a word is printed: mistakes get one sentence.
    target = compilation.find_target(compile_for) if compile_for is not None else None
    report = planning.plan_report(config, estimate_cost=target is None)
    if not as_json:
        width = max(map(len, report))
        for name, value in report.items():
            print(f"{name:<{width}}  {value}", flush=True)
    if target is not None:
        compiled = compilation.compile_report(config, target)
        report["compiled"] = compiled
        if not as_json:
            print(f"\n{compilation.describe(compiled)}")
    if as_json:
        print(json.dumps(report))


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains a model, or goes on with it."""
    print(f"Training in {workdir}.")
    train_model(config, workdir, snapshot=SnapshotWriter(config, workdir))
    _print_statement(workdir)


def sample(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Makes images from a checkpoint."""
    folder = sampling_run.sample(config, workdir)
    print(f"Samples: {folder / sampling_run.ARCHIVE}")
    print(f"Picture: {folder / sampling_run.GRID}")


def evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Measures a run's samples."""
    print(evaluation_run.describe(evaluation_run.evaluate(config, workdir)))


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
    """Trains (or goes on, or finds it done), samples, evaluates and reports."""
    if _is_trained(workdir):
        print(f"{workdir} has been trained; sampling from it.")
    else:
        print(f"Training in {workdir}.")
        train_model(config, workdir, snapshot=SnapshotWriter(config, workdir))
        if not _is_trained(workdir):
            _print_statement(workdir)
            return
    sample(config, workdir)
    if planning.public_problem(config).num_classes:
        evaluate(config, workdir)
    _print_statement(workdir)


def _is_trained(workdir: pathlib.Path) -> bool:
    # The ledger counts steps ahead of their being taken; the checkpoints do not.
    checkpoints = Checkpoints(workdir)
    try:
        steps = checkpoints.steps()
    finally:
        checkpoints.close()
    ledger = workdir / run_dir.LEDGER
    return bool(steps) and steps[-1] == read_ledger(ledger).plan.num_steps


def _print_statement(workdir: pathlib.Path) -> None:
    record = read_ledger(workdir / run_dir.LEDGER)
    text = statement(
        record.plan,
        record.authorized_steps,
        not_private=record.not_private,
        spent=record.epsilon_spent(),
    )
    print(f"\n{text}", end="")
