"""Sides of a benchmark in processes of their own, which take turns.

Two frameworks in one process would share its memory allocator, and the threads of one,
which spin for a while after their work, would take the cores from the other.

python -m experiments.benchmarks.worker MODULE:FUNCTION ARGUMENTS_AS_JSON

FUNCTION returns a dictionary of functions. Names come in on standard input, one a line;
each is answered, when its function has returned, by a line on standard output: the
seconds that all cores together spent on it.
"""

import importlib
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]


class Worker:
    """A process that holds one framework's sides; a context manager.

    Args:
        builder: "MODULE:FUNCTION", see the module's description.
        arguments: keyword arguments of the function, of types that JSON knows.

    Attributes:
        sides: name -> function that runs the side once, in the process, and returns
            the process's processor seconds.
    """

    def __init__(self, builder: str, **arguments: Any):
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, builder, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_CHECKOUT,
        )
        self.sides: dict[str, Callable[[], float]] = {}
        try:
            for name in json.loads(self._answer()):
                self.sides[name] = lambda name=name: self._run(name)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _run(self, name: str) -> float:
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"The process {' '.join(self._process.args)} ended; its messages stand "
                "above."
            )
        return line


def main() -> None:
    """Builds the sides and runs those that are asked for."""
    builder, arguments = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    module, function = builder.split(":")
    build = getattr(importlib.import_module(module), function)
    sides = build(**json.loads(arguments))
    print(json.dumps(list(sides)), file=answers, flush=True)
    for line in sys.stdin:
        before = time.process_time()
        sides[line.strip()]()
        print(time.process_time() - before, file=answers, flush=True)


if __name__ == "__main__":
    main()
