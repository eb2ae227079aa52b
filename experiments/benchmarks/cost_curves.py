"""What a private step costs against the size of the work and of the machine.

python -m experiments.benchmarks.cost_curves --write

One thing varies at a time: examples, views (noise draws) of each, weights, devices and
processes. Prints a JSON line a point: seconds of a logical step (gradient, noise, Adam,
average) by the clock and of all cores, and bytes that it takes at once on one device,
by the compiler. With --write the lines are kept, and drawn.
"""

import argparse
import contextlib
import functools
import json
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from experiments.benchmarks import machine, pairs, scaling

_FOLDER = pathlib.Path(__file__).parent
RESULTS = _FOLDER / "results" / "cost_curves.jsonl"
PICTURE = _FOLDER / "cost_curves.png"

Line = dict[str, Any]


class Work(NamedTuple):
    """A step.

    Attributes:
        network: a name in ``problem.NETWORKS``.
        batch_size: B, over all devices.
        noise_multiplicity: K.
        is_sharded: ``train.sharded_state``.
        devices: virtual ones of each process.
        processes: that take part, as hosts do.
    """

    network: str = "mlp_128"
    batch_size: int = 32
    noise_multiplicity: int = 4
    is_sharded: bool = False
    devices: int = 1
    processes: int = 1

    @property
    def layout(self) -> tuple[int, int]:
        """Processes, and devices of each."""
        return self.processes, self.devices

    @property
    def name(self) -> str:
        """Of the side, in the processes of a layout."""
        return ",".join(map(str, self[:4]))


#: What varies -> its points.
AXES: dict[str, list[Work]] = {
    "examples": [Work(batch_size=b) for b in (8, 32, 128, 512)],
    "views": [Work(noise_multiplicity=k) for k in (1, 4, 16, 64)],
    "weights": [Work(network=f"mlp_{w}") for w in (32, 128, 256, 512)],
    "devices": [Work(devices=n) for n in (1, 2, 4, 8)],
    "devices, sharded state": [Work(devices=n, is_sharded=True) for n in (1, 2, 4, 8)],
    "hosts": [Work(processes=n) for n in (1, 2, 4)],
}
_TINY = Work("mlp", batch_size=4, noise_multiplicity=2)
_QUICK: dict[str, list[Work]] = {
    "examples": [_TINY, _TINY._replace(batch_size=8)],
    "devices, sharded state": [_TINY._replace(devices=2, is_sharded=True)],
}


def measure(axes: dict[str, list[Work]], num_pairs: int) -> Iterator[Line]:
    """Measures every point once, however many axes it is on.

    Args:
        axes: what varies -> its points.
        num_pairs: rounds, in which the steps of one layout take turns.

    Yields:
        A line for each point of each axis, when its layout has been measured.
    """
    points = list(dict.fromkeys(work for some in axes.values() for work in some))
    for layout in dict.fromkeys(work.layout for work in points):
        found = _measured([w for w in points if w.layout == layout], num_pairs)
        for axis, some in axes.items():
            for work in some:
                if work in found:
                    yield {"axis": axis} | found[work]


def _measured(works: Sequence[Work], num_pairs: int) -> dict[Work, Line]:
    with contextlib.ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory())
        answer = pathlib.Path(folder) / "answer.json"
        sides = scaling.start(
            resources,
            f"{__package__}.device_sides:described_steps",
            works[0].layout,
            {"sizes": [work[:4] for work in works], "answer": str(answer)},
        )
        spent: dict[str, list[float]] = {name: [] for name in sides}
        noting = {
            name: functools.partial(_noting, spent[name], run)
            for name, run in sides.items()
        }
        seconds = pairs.interleaved(noting, num_pairs, steady=True)
        sizes = json.loads(answer.read_text())
    lines = {}
    for work in works:
        weights, bytes_at_once = sizes[work.name]
        lines[work] = work._asdict() | {
            "weights": weights,
            "seconds": pairs.spread(seconds[work.name]),
            # Without the untimed calls: the first, and one before each round's.
            "processor_seconds": pairs.spread(spent[work.name][2::2]),
            "bytes_on_a_device": bytes_at_once,
        }
    return lines


def _noting(spent: list[float], run: Callable[[], list[float]]) -> None:
    spent.append(sum(run()))


def value(line: Line) -> int:
    """What varies along a line's axis."""
    names = {"examples": "batch_size", "views": "noise_multiplicity"}
    names |= {"devices, sharded state": "devices", "hosts": "processes"}
    return line[names.get(line["axis"], line["axis"])]


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Returns p of the power law value^p from the first point to the last.

    Args:
        values: what varies, increasing.
        costs: at these.
    """
    return math.log(costs[-1] / costs[0]) / math.log(values[-1] / values[0])


def by_axis(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """The points of each axis in their order."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        if "axis" in line:
            found.setdefault(line["axis"], []).append(line)
    return {axis: sorted(points, key=value) for axis, points in found.items()}


def draw(lines: Sequence[Line], picture: pathlib.Path) -> None:
    """Draws time and memory against all that varies.

    Args:
        lines: see ``measure``.
        picture: a .png file.
    """
    from matplotlib.figure import Figure

    axes = by_axis(lines)
    figure = Figure(figsize=(2.6 * len(axes), 5), layout="constrained")
    grid = figure.subplots(2, len(axes), sharey="row", squeeze=False)
    for column, (axis, points) in enumerate(axes.items()):
        values = [value(point) for point in points]
        costs = {
            "processor seconds a step": [
                point["processor_seconds"]["median"] for point in points
            ],
            "MB on a device": [point["bytes_on_a_device"] / 1e6 for point in points],
        }
        for row, (label, some) in enumerate(costs.items()):
            place = grid[row, column]
            place.loglog(values, some, "o-")
            power = exponent(values, some) if len(values) > 1 else 0.0
            place.set_title(f"grows as {axis.split(',')[0]}^{power:.2f}", fontsize=9)
            place.set_xticks(values, [f"{v:,}" for v in values], fontsize=7)
            place.minorticks_off()
            if column == 0:
                place.set_ylabel(label)
            if row == 1:
                place.set_xlabel(axis)
    figure.savefig(picture, dpi=100)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the points, and what they were measured on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--write", action="store_true", help="keep and draw the lines")
    parser.add_argument("--quick", action="store_true", help="tiny work, one pair")
    options = parser.parse_args(argv)
    axes = {axis: AXES[axis] for axis in options.axes}
    if options.quick:
        axes, options.pairs = _QUICK, 1
    recorder = machine.Recorder()
    lines = []
    for line in measure(axes, options.pairs):
        lines.append(line)
        print(json.dumps(line), flush=True)
    lines.append(recorder.record())
    print(json.dumps(lines[-1]))
    if options.write:
        RESULTS.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        draw(lines, PICTURE)


if __name__ == "__main__":
    main()
