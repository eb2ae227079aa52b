"""Averages of the weights whose length is chosen after training, on the main job.

python -m experiments.averages [--workdir=DIR]

Trains the digits config twice with the same keys: one run keeps the averages that
others are rebuilt from, the other keeps some of those others. Says how far rebuilt and
kept ones are apart, and how accuracy goes with the length. Started again, it goes on.
Prints one JSON object.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from dpdm_jax import files, run_dir, settings
from dpdm_jax.configs import digits
from dpdm_jax.evaluation.run import evaluate
from dpdm_jax.models.model import build_model
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train
from experiments.benchmarks import machine

#: What the run keeps, and what is kept by the other to compare with.
KEPT, COMPARED = (0.05, 0.1), (0.02, 0.03, 0.075, 0.15, 0.2, 0.25)
#: 0 is the exponential average of the config.
LENGTHS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)


def config_of(lengths: Sequence[float], fields: dict[str, Any]) -> Any:
    """Returns the digits config with averages of these lengths."""
    config = digits.network_alone()
    ours = {
        # So that both runs take the same steps; nothing here is private.
        "privacy.fixed_keys_seed": 0,
        "train.power_averages": tuple(lengths),
        "log.snapshot_every_steps": 0,
        "log.tensorboard": False,
        "evaluate.metrics": ("mlp",),
        "evaluate.dp_sgd.epochs": 0,
    }
    for name, value in (ours | fields).items():
        settings.assign(config, name, value)
    return config


def rebuilt(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, length: float
) -> Any:
    """Returns the average of a length, from what a run kept, or as it kept it."""
    checkpoints = Checkpoints(workdir)
    try:
        model = build_model(config, *checkpoints.stored_problem())
        params, _ = checkpoints.restore_weights(model, average=length)
        return model.split(params)[0]
    finally:
        checkpoints.close()


def distances(made: Any, kept: Any) -> dict[str, float]:
    """Returns how far two trees of weights are apart."""
    made, kept = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
        for tree in (made, kept)
    )
    difference = made - kept
    return {
        "largest_difference": float(np.abs(difference).max()),
        "relative": float(np.linalg.norm(difference) / np.linalg.norm(kept)),
    }


def run(
    workdir: pathlib.Path,
    lengths: Sequence[float] = LENGTHS,
    fields: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains both runs, and measures.

    Args:
        workdir: of both; what is finished there is not repeated.
        lengths: to measure the accuracy of, 0 for the exponential average.
        fields: of the config, beside those of the experiment.

    Returns:
        JSON values.
    """
    fields = fields or {}
    config = config_of(KEPT, fields)
    other = config_of(COMPARED, fields)
    for each, name in ((config, "kept"), (other, "compared")):
        done = workdir / f"{name}.json"
        if not done.exists():
            train(each, workdir / name)
            files.write_json(done, {"averages": list(each.train.power_averages)})
    apart = {
        str(length): distances(
            rebuilt(config, workdir / "kept", length),
            rebuilt(other, workdir / "compared", length),
        )
        for length in COMPARED
    }
    rows = []
    for length in lengths:
        name = f"average_{length:g}" if length else "ema"
        config.sample.update(average=length, name=name)
        result = workdir / "kept" / run_dir.EVALUATION / f"{name}.json"
        if not result.exists():
            evaluate(config, workdir / "kept")
        measured = json.loads(result.read_text())
        rows.append(
            {"average": length} | {key: measured[key] for key in ("mlp", "mlp_std")}
        )
    return {"rebuilt_against_kept": apart, "accuracy": rows}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment and prints what it found."""
    parser = argparse.ArgumentParser(prog="python -m experiments.averages")
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/averages")
    arguments = parser.parse_args(argv)
    recorder = machine.Recorder()
    found = run(arguments.workdir)
    print(json.dumps(found | recorder.record(), indent=2))


if __name__ == "__main__":
    main()
