"""What private training takes on one GPU, within a few minutes.

python -m experiments.benchmarks.gpu --seconds 480 | tee gpu.jsonl

Prints a JSON line a figure as soon as it is known, what matters most first, so that a
stop loses nothing. A figure that fails, for want of memory or of time, is a line as
well: it has an "error" or says why it was "skipped". Wants JAX for the GPU, Flax,
Optax, ml-collections and jaxtyping, no data, no TensorFlow; PyTorch's figures are left
out where it is missing. This process touches no device: each task has one of its own,
so that none inherits another's memory or ends with it.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

#: What ``gpu_tasks.run`` gets: the name of a function there, and its arguments.
Task = dict[str, Any]
Line = dict[str, Any]

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_NEEDED = {"jax": "jax", "flax": "flax", "optax": "optax"}
_NEEDED |= {"ml_collections": "ml-collections", "jaxtyping": "jaxtyping"}
_FIRST = ("describe", "peak")
# A task that would have less time is not begun.
_LEAST_SECONDS = 20
# None takes more than this, that others have a turn.
_MOST_SECONDS = 180


def tasks(*, quick: bool, has_torch: bool) -> list[Task]:
    """What is measured, in the order of importance.

    Args:
        quick: whether on a tiny network.
        has_torch: whether PyTorch's sides take part.
    """
    size = {"noisy_images": 4, "rounds": 1, "round_seconds": 0} if quick else {}

    def step(network: str, precision: str, engine: str = "auto") -> Task:
        size_and = {"network": network, "precision": precision, **size}
        return {"task": "step", "engine": engine, **size_and}

    def sampling(network: str, precision: str) -> Task:
        few = {"num_steps": 3, "batch_size": 2, "rounds": 1} if quick else {}
        task = {"task": "sampling", "network": network, "precision": precision}
        return task | few

    def memory(network: str, side: str) -> Task:
        few = {"noisy_images": 4} if quick else {}
        task = {"task": "memory", "network": network, "side": side}
        return task | {"precision": "bfloat16"} | few

    def torch(task: Task) -> list[Task]:
        return [task | {"task": f"torch_{task['task']}"}] if has_torch else []

    first: list[Task] = [{"task": "describe"}]
    product = {"size": 128, "round_seconds": 0} if quick else {"size": 8192}
    first += [{"task": "peak"} | product]
    if quick:
        return [
            *first,
            step("mlp", "bfloat16"),
            step("mlp", "tf32", "book_keeping"),
            *torch(step("least", "bfloat16")),
            sampling("mlp", "float32"),
            *torch(sampling("least", "float32")),
            memory("mlp", "private"),
        ]
    both = ("cifar10", "mnist")
    return [
        *first,
        *(step(network, "bfloat16") for network in both),
        *torch(step("cifar10", "bfloat16")),
        *(step(network, "tf32") for network in both),
        *torch(step("mnist", "bfloat16")),
        sampling("cifar10", "bfloat16"),
        *(memory("cifar10", side) for side in ("private", "nonprivate")),
        *(step("cifar10", "bfloat16", name) for name in ("vmap", "book_keeping")),
        *torch(sampling("cifar10", "bfloat16")),
        *(memory("mnist", side) for side in ("private", "nonprivate")),
        *(step("mnist", "bfloat16", name) for name in ("vmap", "book_keeping")),
        *(step(network, "float32") for network in both),
        *(t for network in both for t in torch(step(network, "tf32"))),
        sampling("mnist", "bfloat16"),
        *torch(sampling("mnist", "bfloat16")),
        *(step(network, "bfloat16", "scan") for network in both),
        *(sampling(network, "tf32") for network in both),
    ]


def measure(wanted: Sequence[Sequence[Task]], seconds: float) -> Iterator[Line]:
    """Does tasks one after another, while there is time.

    Args:
        wanted: tasks, those together that share a process.
        seconds: for all of them.

    Yields:
        The figures, as they come.
    """
    end = time.monotonic() + seconds
    peaks: dict[str, float] = {}
    rates: dict[tuple[str, str, str], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        # What one process compiled serves the others.
        environment = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | os.environ
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", folder)
        for together in wanted:
            left = end - time.monotonic()
            if left < _LEAST_SECONDS:
                for task in together:
                    yield task | {"skipped": f"{max(0, left):.0f} s are left"}
                continue
            allowed = min(left, _MOST_SECONDS * len(together))
            own = dict(environment)
            if all(task["task"].startswith("torch") for task in together):
                own["JAX_PLATFORMS"] = "cpu"  # JAX would take most of the GPU's memory
            for line in _in_process(together, allowed, own):
                if line.get("task") == "peak" and "tflops" in line:
                    peaks |= line["tflops"]
                yield line | _beside(line, peaks, rates)


def _in_process(
    together: Sequence[Task], seconds: float, environment: dict[str, str]
) -> Iterator[Line]:
    """Yields what a process says that does these tasks, or what became of it."""
    command = [sys.executable, "-m", f"{__package__}.gpu_tasks", json.dumps(together)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=_CHECKOUT,
            env=environment,
        ) as process,
    ):
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        num_done = 0
        try:
            for text in process.stdout or ():
                with contextlib.suppress(ValueError):  # it was cut off
                    line = json.loads(text)
                    num_done += 1
                    yield line
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        if num_done < len(together):
            reason = f"it ended with status {status}"
            if is_late.is_set():
                reason = f"not done within {seconds:.0f} s"
            errors.seek(0)
            said = errors.read().strip().splitlines()[-3:]
            for task in together[num_done:]:
                yield task | {"error": reason, "said": said}


def _beside(
    line: Line, peaks: dict[str, float], rates: dict[tuple[str, str, str], float]
) -> Line:
    """What a line says beside earlier ones, whose figures are kept.

    Args:
        line: the figures of a task.
        peaks: of matrix products by precision, 10^12 operations a second.
        rates: images a second by network, precision and side.
    """
    found: Line = {}
    for side, tflops in line.get("work_tflops", {}).items():
        for kind in {"bfloat16", line["precision"]} & peaks.keys():
            share = round(tflops / peaks[kind], 4)
            found.setdefault(f"of_{kind}_matrix_products", {})[side] = share
    ours = {"private": "torch_hooks", "nonprivate": "torch_nonprivate"}
    ours |= {"sampling": "torch_sampling"}
    for side, rate in line.get("images_per_second", {}).items():
        key = line["network"], line["precision"]
        if line.get("engine", "auto") == "auto":
            rates[*key, side] = rate["median"]
        for name, theirs in ours.items():
            if side in (name, theirs) and {(*key, name), (*key, theirs)} <= set(rates):
                ratio = rates[*key, name] / rates[*key, theirs]
                found[f"{name}_times_as_fast_as_{theirs}"] = round(ratio, 3)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=480, help="for all of it")
    parser.add_argument("--only", nargs="+", metavar="TASK", help="names of tasks")
    parser.add_argument("--without-torch", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, help="a file for the lines, too")
    parser.add_argument("--quick", action="store_true", help="tiny; runs on a CPU")
    options = parser.parse_args(argv)
    missing = [package for name, package in _NEEDED.items() if not _is_installed(name)]
    if missing:
        parser.error(f"missing: {', '.join(missing)}; pip install {' '.join(missing)}")
    has_torch = _is_installed("torch") and not options.without_torch
    wanted = tasks(quick=options.quick, has_torch=has_torch)
    if options.only:
        wanted = [task for task in wanted if task["task"] in options.only]
    # Starting a process takes seconds. Those share one that nothing can be wrong with,
    # and in a quick run all.
    shared = wanted if options.quick else [t for t in wanted if t["task"] in _FIRST]
    processes = [shared, *([task] for task in wanted if task not in shared)]
    with contextlib.ExitStack() as files:
        out = files.enter_context(options.out.open("a")) if options.out else None
        for line in measure(processes, options.seconds):
            print(json.dumps(line), flush=True)
            if out:
                print(json.dumps(line), file=out, flush=True)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # sys.modules has None in its place
        return False


if __name__ == "__main__":
    main()
