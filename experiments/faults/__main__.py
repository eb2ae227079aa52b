"""Kills private runs at random points and checks that nothing came of it.

python -m experiments.faults [--points=200] [--seed=0] [--jobs=2] [--json]
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import sys
import tempfile

import tqdm

from experiments.benchmarks import machine
from experiments.faults import points


def main() -> int:
    """Runs the points; the exit status is 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m experiments.faults")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="points at the same time")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    recorder = machine.Recorder()
    outcome = points.Outcome()
    with tempfile.TemporaryDirectory() as folder:
        # Compiled once, for all processes; the environment is inherited.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/jax"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        runs = points.Points(pathlib.Path(folder), arguments.seed)
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as workers:
            made = workers.map(runs.run, range(arguments.points))
            for each in tqdm.tqdm(made, "points", arguments.points, mininterval=15):
                outcome += each
        operations = runs.operations
    result = (
        {
            "points": arguments.points,
            "seed": arguments.seed,
            "mismatches": len(outcome.failures),
            "operations_of_a_run": operations,
        }
        | vars(outcome)
        | recorder.record()
    )
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
