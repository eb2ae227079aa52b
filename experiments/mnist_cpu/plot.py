"""Draws results/: training loss, accuracies beside the paper's, and learning curves.

python -m experiments.mnist_cpu.plot
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.mnist_cpu.runs import PAPER, RESULTS, RUNS, TARGETS

#: Of a learning curve, those that the extrapolation is drawn through.
_LAST_POINTS = 4

#: Folder of earlier runs, without measured moments, whose checkpoints were checked.
_BEFORE = "edm_dct"


def main() -> None:
    """Draws what there is a result of, and prints what the curves extrapolate to."""
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    losses, learning, accuracies = figure.subplots(1, 3)
    names = [name for name in RUNS if (RESULTS / f"{name}.json").exists()]
    for i, name in enumerate(names):
        trained, checked = _read(name), _read(f"{name}_check")
        steps = [point["step"] for point in trained["curve"]]
        hours = [step / steps[-1] * trained["seconds"] / 3600 for step in steps]
        losses.plot(hours, [point["loss"] for point in trained["curve"]], label=name)
        bars = {
            "obtained": 100 * checked["accuracy"],
            "target": TARGETS.get(name),
            "paper, 8 A100": PAPER[name],
        }
        for j, (label, value) in enumerate(bars.items()):
            if value is not None:
                place, shown = i + 0.25 * (j - 1), label if i == 0 else None
                accuracies.bar(place, value, 0.23, color=f"C{j}", label=shown)
        if (RESULTS / _BEFORE / f"{name}_curve.json").exists():
            rows = _read(f"{_BEFORE}/{name}_curve")["rows"]
            seconds = _read(f"{_BEFORE}/{name}")["seconds"]
            hour = seconds / 3600 / rows[-1]["step"]
            found = _draw_curve(learning, name, rows, hour, f"C{i}")
            learning.axhline(100 - bars["obtained"], color=f"C{i}", linestyle="--")
            print(f"{name} without measured moments: {found}")
    losses.set(xlabel="hours", ylabel="training loss")
    losses.legend()
    learning.set(xlabel="hours", ylabel="errors of the CNN, %")
    learning.set_title("without moments; dashed: with them", fontsize=9)
    learning.set(xscale="log", yscale="log")
    for axis in learning.xaxis, learning.yaxis:
        axis.set_major_locator(LogLocator(2))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    if learning.lines:
        learning.legend()
    accuracies.set(ylabel="accuracy of the CNN, %", ylim=(50, 110))
    accuracies.set_xticks(range(len(names)), names, fontsize=8)
    accuracies.legend(loc="upper center", ncols=3)
    figure.savefig(pathlib.Path(__file__).parent / "curves.png", dpi=110)


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def extrapolate(
    hours: Sequence[float], errors: Sequence[float], at: Sequence[float]
) -> list[float]:
    """A power law through errors over compute, by least squares of the logarithms.

    Args:
        hours: compute of each point, > 0.
        errors: of each point, > 0.
        at: compute of the wanted ones.

    Returns:
        The law's errors there.
    """
    law = np.polyfit(np.log(hours), np.log(errors), 1)
    return [math.exp(np.polyval(law, math.log(x))) for x in at]


def _draw_curve(
    axes: Axes, name: str, rows: list[dict[str, Any]], hour: float, colour: str
) -> str:
    hours = [row["step"] * hour for row in rows]
    errors = [100 * (1 - row["accuracy"]) for row in rows]
    axes.plot(hours, errors, "o-", color=colour, label=name)
    last = slice(-_LAST_POINTS, None)
    ahead = [hours[-1] * factor for factor in (1, 2, 4)]
    law = extrapolate(hours[last], errors[last], ahead)
    axes.plot(ahead, law, ":", color=colour)
    if name in TARGETS:
        axes.axhline(100 - TARGETS[name], color=colour, linewidth=0.5)
    twice, four_times = (f"{100 - error:.1f} %" for error in law[1:])
    return f"{twice} with twice the compute, {four_times} with four times"


if __name__ == "__main__":
    main()
