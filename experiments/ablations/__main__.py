"""Ablations of DPDM's tables 3, 5 and 6 at one small compute budget.

python -m experiments.ablations --data=FOLDER [--only sampler] [--workdir=DIR]

FOLDER holds MNIST's IDX files. Every run trains, samples and is evaluated by
``dpdm_jax.main`` in a directory of its own below --workdir; started again, finished
ones are not repeated. Prints one JSON object.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import tqdm

from dpdm_jax import files, run_dir
from experiments.ablations.variants import ABLATIONS, COMMON, Fields, Variant
from experiments.benchmarks import machine

_MEASURED = ("fid_lenet", "logreg", "mlp")


def run(
    variant: Variant, seed: int, workdir: pathlib.Path, fields: Fields
) -> list[dict[str, Any]]:
    """Trains a variant and evaluates it with each of its samplers.

    Args:
        variant: what is run.
        seed: of weights and samples; what DP-SGD draws is secret and new.
        workdir: of the run; what is finished there is not repeated.
        fields: of the config, beside the variant's own.

    Returns:
        A row for each sampler.
    """
    fields = {**fields, **variant.fields, "seed": seed, "sample.seed": seed}
    done = workdir / "training_seconds.json"
    if not done.exists():
        start = time.perf_counter()
        _main("train", workdir, fields)
        files.write_json(done, round(time.perf_counter() - start, 1))
    rows = []
    for name, sampler in variant.samplers.items():
        result = workdir / run_dir.EVALUATION / f"{name}.json"
        if not result.exists():
            _main("evaluate", workdir, {**fields, **sampler, "sample.name": name})
        measured = json.loads(result.read_text())
        rows.append(
            {"variant": variant.name, "sampler": name, "seed": seed}
            | {metric: measured[metric] for metric in _MEASURED if metric in measured}
            | {"training_seconds": json.loads(done.read_text())}
        )
    return rows


def _main(mode: str, workdir: pathlib.Path, fields: Fields) -> None:
    command = [sys.executable, "-m", "dpdm_jax.main", f"--mode={mode}"]
    command += ["--config=configs/mnist.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with open(workdir.parent / f"{workdir.name}.log", "a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the ablations and prints their rows."""
    parser = argparse.ArgumentParser(prog="python -m experiments.ablations")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--only", nargs="+", choices=ABLATIONS, default=list(ABLATIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/ablations")
    arguments = parser.parse_args(argv)
    fields = COMMON | {"data.source": "idx", "data.path": arguments.data}
    recorder = machine.Recorder()
    rows = []
    runs = [
        (name, variant, seed)
        for name in arguments.only
        for variant in ABLATIONS[name]
        for seed in arguments.seeds
    ]
    for name, variant, seed in tqdm.tqdm(runs, "runs", mininterval=15):
        folder = arguments.workdir / name / f"{variant.name},seed={seed}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        rows += [{"ablation": name} | row for row in run(variant, seed, folder, fields)]
    result = {
        "common": dict(COMMON),
        "rows": rows,
    }
    print(json.dumps(result | recorder.record(), indent=1))


if __name__ == "__main__":
    main()
