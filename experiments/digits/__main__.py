"""The embedded jobs from nothing, several times: accuracy, distance, time.

python -m experiments.digits [--runs digits digits_finetune digits_text] [--seeds 0 1 2]

Each run is a command of its own in an empty folder below --workdir, public stage
included, as a newcomer starts it. Started again, finished ones are not repeated. Writes
``results/<run>.json``: a row a seed, and means and standard deviations of all.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from dpdm_jax import files, run_dir
from dpdm_jax.privacy import read_ledger
from experiments.benchmarks import machine

RESULTS = pathlib.Path(__file__).parent / "results"
_CHECKOUT = pathlib.Path(__file__).parents[2]

#: Names of configs, whose runs have these names, too.
RUNS = ("digits", "digits_finetune", "digits_text")

#: What is read of an evaluation, as far as a run measures it.
MEASURED = ("mlp", "mlp_real", "mlp_dp_sgd", "alignment", "fid_lenet")


def run(name: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Trains, samples and evaluates by the command line.

    Args:
        name: one of ``RUNS``.
        seed: ``config.seed``; noise and batches are secret and new in any case.
        folder: in which the command runs; what is finished there is not repeated.

    Returns:
        A row: figures, budget, seconds of the whole command, commit and machine.
    """
    found = folder / "row.json"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        recorder = machine.Recorder()
        command = [sys.executable, "-m", "dpdm_jax.main", f"--config.seed={seed}"]
        command += [f"--config={_CHECKOUT / 'configs' / name}.py"]
        subprocess.run(command, cwd=folder, check=True)
        workdir = folder / "runs" / name
        files.write_json(found, _row(workdir, seed) | recorder.record())
    return json.loads(found.read_text())


def _row(workdir: pathlib.Path, seed: int) -> dict[str, Any]:
    evaluation = workdir / run_dir.EVALUATION / "samples.json"
    measured = json.loads(evaluation.read_text())
    plan = read_ledger(workdir / run_dir.LEDGER).plan
    return {
        "seed": seed,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "fid_lenet_floor": measured["fid_lenet_floor"],
    } | {name: measured[name] for name in MEASURED if name in measured}


def collect(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Puts the rows of a run together.

    Args:
        name: one of ``RUNS``.
        rows: of different seeds.

    Returns:
        Rows, and of each figure its mean and, under "..._std", the standard deviation
        between runs, where there are several.
    """
    result: dict[str, Any] = {"run": name, "rows": list(rows)}
    for key in (*MEASURED, "fid_lenet_floor", "seconds"):
        values = [row[key] for row in rows if key in row]
        if values:
            result[key] = statistics.fmean(values)
        if len(values) > 1:
            result[f"{key}_std"] = statistics.stdev(values)
    result["epsilon"] = max(row["epsilon"] for row in rows)
    result["commits"] = sorted({row["commit"] for row in rows})
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is asked for, and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m experiments.digits")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/of_digits")
    arguments = parser.parse_args(argv)
    for name in arguments.runs:
        folders = [arguments.workdir / f"{name},{seed=}" for seed in arguments.seeds]
        of_seeds = zip(arguments.seeds, folders, strict=True)
        rows = [run(name, seed, folder) for seed, folder in of_seeds]
        RESULTS.mkdir(exist_ok=True)
        files.write_json(RESULTS / f"{name}.json", collect(name, rows))


if __name__ == "__main__":
    main()
