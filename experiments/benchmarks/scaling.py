"""Time against the size of the work, and what more devices and processes change.

python -m experiments.benchmarks.scaling --json
"""

import argparse
import concurrent.futures
import contextlib
import functools
import json
import pathlib
import socket
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from experiments.benchmarks import machine, pairs, worker

# (network, B, K): one varies at a time.
_SIZES = {
    "batch_size": [("small", b, 8) for b in (4, 8, 16)],
    "noise_multiplicity": [("small", 8, k) for k in (1, 8, 32)],
    "parameters": [(network, 8, 8) for network in ("tiny", "small", "mnist")],
}
_QUICK_SIZES = {"batch_size": [("mlp", b, 2) for b in (2, 4)]}
# (processes, devices of each); the first is what the others are compared with.
_LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 4))
_QUICK_LAYOUTS = ((1, 1), (1, 2), (2, 1))
_BUILDERS = f"{__package__}.device_sides"


def measure_sizes(sizes: dict[str, list[tuple]], num_pairs: int) -> dict:
    """Times a logical step, gradient, noise and Adam, on one device.

    Args:
        sizes: what varies -> (network, B, K) each.
        num_pairs: rounds.

    Returns:
        What varies -> a dictionary for each size.
    """
    unique = sorted(set().union(*sizes.values()))
    with worker.Worker(f"{_BUILDERS}:sized_steps", sizes=unique) as process:
        seconds = pairs.interleaved(process.sides, num_pairs)
    from experiments.benchmarks import device_sides

    def describe(network: str, batch_size: int, noise_multiplicity: int) -> dict:
        taken = seconds[f"{network},{batch_size},{noise_multiplicity}"]
        images = batch_size * noise_multiplicity
        return {
            "network": network,
            "parameters": device_sides.num_parameters(network),
            "batch_size": batch_size,
            "noise_multiplicity": noise_multiplicity,
            "seconds": pairs.spread(taken),
            "noisy_images_per_second": pairs.spread([images / s for s in taken]),
        }

    return {name: [describe(*size) for size in some] for name, some in sizes.items()}


def measure_layouts(
    layouts: Sequence[tuple[int, int]],
    num_steps: int,
    step: dict[str, object],
    num_pairs: int,
    *,
    is_least: bool = False,
) -> dict:
    """Trains the digits under each layout, compares the ends, and times a step.

    Args:
        layouts: (processes, devices of each); the first is the standard.
        num_steps: of the training runs.
        step: network, batch_size and noise_multiplicity of the timed step.
        num_pairs: rounds.
        is_least: whether the runs are tiny, see ``device_sides.run_and_step``.

    Returns:
        "processes x devices" -> a dictionary.
    """
    with contextlib.ExitStack() as resources:
        folder = pathlib.Path(resources.enter_context(tempfile.TemporaryDirectory()))
        sides, ends = {}, {}
        for layout in layouts:
            name = "{} x {}".format(*layout)
            answer = folder / f"{name}.npz"
            work = {"num_steps": num_steps, "answer": str(answer)} | step
            work |= {"is_least": is_least}
            started = start(resources, f"{_BUILDERS}:run_and_step", layout, work)
            sides[name] = started["step"]
            with np.load(answer) as archive:
                ends[name] = dict(archive)
        seconds = pairs.interleaved(sides, num_pairs)
    standard = next(iter(ends.values()))
    return {
        name: {
            "same_indices": _same(end, standard, "indices", "sizes"),
            "same_noise": _same(end, standard, "noise"),
            "max_abs_deviation": max(
                float(np.abs(end[k] - standard[k]).max()) for k in ("params", "ema")
            ),
            "relative_deviation": max(
                float(
                    np.linalg.norm(end[k] - standard[k]) / np.linalg.norm(standard[k])
                )
                for k in ("params", "ema")
            ),
            "seconds": pairs.spread(seconds[name]),
        }
        for name, end in ends.items()
    }


def start(
    resources: contextlib.ExitStack, builder: str, layout: tuple[int, int], work: dict
) -> dict[str, Callable[[], list[float]]]:
    """Starts the processes of a layout.

    Args:
        resources: ends them.
        builder: see ``worker.Worker``; takes the layout's arguments beside the work's.
        layout: processes, devices of each.
        work: arguments of the builder.

    Returns:
        Name -> function that has all of them run a side together, and returns the
        processor seconds of each.
    """
    num_processes, num_devices = layout
    threads = resources.enter_context(
        concurrent.futures.ThreadPoolExecutor(num_processes)
    )
    address = _free_address()

    # They start, step and end together, so that nothing may wait for one alone.
    def start_one(process_id: int) -> worker.Worker:
        return worker.Worker(
            builder,
            num_devices=num_devices,
            num_processes=num_processes,
            process_id=process_id,
            address=address,
            **work,
        )

    started = list(threads.map(start_one, range(num_processes)))
    resources.callback(lambda: list(threads.map(worker.Worker.close, started)))

    def together(name: str) -> list[float]:
        return list(threads.map(lambda process: process.sides[name](), started))

    return {name: functools.partial(together, name) for name in started[0].sides}


def _free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def _same(end: dict, standard: dict, *names: str) -> bool:
    return all(np.array_equal(end[name], standard[name]) for name in names)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--steps", type=int, default=20, help="of the training runs")
    parser.add_argument("--quick", action="store_true", help="tiny work, one pair")
    options = parser.parse_args(argv)
    sizes, layouts, timed = _SIZES, _LAYOUTS, ("tiny", 64, 8)
    if options.quick:
        sizes, layouts, timed = _QUICK_SIZES, _QUICK_LAYOUTS, ("mlp", 8, 2)
        options.pairs, options.steps = 1, 2
    before = machine.state()
    step = dict(
        zip(("network", "batch_size", "noise_multiplicity"), timed, strict=True)
    )
    by_layout = measure_layouts(
        layouts, options.steps, step, options.pairs, is_least=options.quick
    )
    by_size = measure_sizes(sizes, options.pairs)
    conditions = {"before": before, "after": machine.state()}
    if not options.json:
        _print(by_layout, by_size)
        return
    print(
        json.dumps(
            {
                "benchmark": "scaling",
                "max_abs_deviation": max(
                    found["max_abs_deviation"] for found in by_layout.values()
                ),
                "relative_deviation": max(
                    found["relative_deviation"] for found in by_layout.values()
                ),
                "same_indices": all(f["same_indices"] for f in by_layout.values()),
                "same_noise": all(f["same_noise"] for f in by_layout.values()),
                "training_steps": options.steps,
                "timed_step": step,
                "layouts": by_layout,
                "sizes": by_size,
                "pairs": options.pairs,
                "conditions": conditions,
                "machine": machine.describe(),
            }
        )
    )


def _print(by_layout: dict, by_size: dict) -> None:
    print("processes x devices, against the first:")
    for name, found in by_layout.items():
        print(
            f"  {name}: same indices {found['same_indices']}, same noise "
            f"{found['same_noise']}, weights differ by at most "
            f"{found['max_abs_deviation']:.1e} (relative to their norm "
            f"{found['relative_deviation']:.1e}); seconds a step "
            f"{pairs.in_words(found['seconds'])}"
        )
    for name, some in by_size.items():
        print(f"against {name}:")
        for size in some:
            print(
                f"  {size['parameters']} parameters, B={size['batch_size']} "
                f"K={size['noise_multiplicity']}: {pairs.in_words(size['seconds'])} s"
            )


if __name__ == "__main__":
    main()
