"""Trains a generator on two CPU cores, and makes the release that is committed here.

python -m experiments.mnist_cpu.train mnist_eps10 --data=FOLDER [--workdir=DIR]

FOLDER holds the IDX files of MNIST, or of Fashion-MNIST. Writes ``releases/<name>/``
and ``results/<name>.json``. Started again after an interruption it goes on where the
run was; the time is then that of the last process. Other flags go to ``dpdm_jax.main``.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from dpdm_jax import files, run_dir
from dpdm_jax.training.metrics import FILE_NAME
from experiments.benchmarks import machine
from experiments.mnist_cpu.runs import RELEASES, RESULTS, RUNS


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, releases and writes down how long it took."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mnist_cpu.train")
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--workdir", type=pathlib.Path)
    arguments, flags = parser.parse_known_args(argv)
    workdir = arguments.workdir or pathlib.Path("runs/mnist_cpu") / arguments.run
    command = [sys.executable, "-m", "dpdm_jax.main", f"--workdir={workdir}"]
    command += [f"--config={RUNS[arguments.run]}"]
    command += ["--config.data.source=idx", f"--config.data.path={arguments.data}"]
    command += flags
    done = workdir / "training.json"
    if not done.exists():
        _train(command, done)
    subprocess.run([*command, "--mode=release"], check=True)
    release = RELEASES / arguments.run
    shutil.rmtree(release, ignore_errors=True)
    shutil.copytree(workdir / run_dir.RELEASE, release)
    result = json.loads(done.read_text()) | {"curve": _curve(workdir)}
    RESULTS.mkdir(exist_ok=True)
    files.write_json(RESULTS / f"{arguments.run}.json", result)


def _train(command: list[str], done: pathlib.Path) -> None:
    recorder = machine.Recorder()
    subprocess.run([*command, "--mode=train"], check=True)
    files.write_json(done, recorder.record())


def _curve(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The training loss by step: private, were the images not public."""
    lines = (workdir / FILE_NAME).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{"step": row["step"], "loss": row["private/loss"]} for row in rows]


if __name__ == "__main__":
    main()
