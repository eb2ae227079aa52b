"""Damages files of every format that is read, and checks what the readers make of them.

python -m experiments.fuzz [--files=10000] [--first=0] [--seed=0] [--jobs=2] [--json]
"""

import argparse
import concurrent.futures
import json
import pathlib
import queue
import sys
import tempfile

import tqdm

from experiments.benchmarks import machine
from experiments.fuzz import cases, formats, workers


def main() -> int:
    """Runs the files; the exit status is 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fuzz")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes that read")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    recorder = machine.Recorder()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        formats.make_files(folder / "undamaged")
        results = _run(folder, arguments)
    result = (
        {"files": arguments.files, "first": arguments.first, "seed": arguments.seed}
        | cases.summarise(results)
        | recorder.record()
    )
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print("\n".join(f"{name}: {value}" for name, value in result.items()))
    return 1 if result["failures"] else 0


def _run(folder: pathlib.Path, arguments: argparse.Namespace) -> list[cases.Result]:
    undamaged, seed, timeout = folder / "undamaged", arguments.seed, arguments.timeout
    made = [
        workers.Worker(undamaged, folder / f"worker_{i}", seed, timeout)
        for i in range(arguments.jobs)
    ]
    idle: queue.SimpleQueue[workers.Worker] = queue.SimpleQueue()
    for worker in made:
        idle.put(worker)

    def run(number: int) -> cases.Result:
        worker = idle.get()
        try:
            return worker.run(number)
        finally:
            idle.put(worker)

    numbers = range(arguments.first, arguments.first + arguments.files)
    try:
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as threads:
            done = threads.map(run, numbers)
            return list(tqdm.tqdm(done, "files", len(numbers), mininterval=15))
    finally:
        for worker in made:
            worker.close()


if __name__ == "__main__":
    sys.exit(main())
