"""Draws results/ as curves.png: training loss, and accuracies beside the paper's.

python -m experiments.mnist_cpu.plot
"""

import json
import pathlib

from matplotlib.figure import Figure

from experiments.mnist_cpu.runs import PAPER, RESULTS, RUNS, TARGETS


def main() -> None:
    """Draws what there is a result of."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    names = [name for name in RUNS if (RESULTS / f"{name}.json").exists()]
    for i, name in enumerate(names):
        trained = json.loads((RESULTS / f"{name}.json").read_text())
        steps = [point["step"] for point in trained["curve"]]
        hours = [step / steps[-1] * trained["seconds"] / 3600 for step in steps]
        losses.plot(hours, [point["loss"] for point in trained["curve"]], label=name)
        checked = json.loads((RESULTS / f"{name}_check.json").read_text())
        bars = {
            "obtained": 100 * checked["accuracy"],
            "target": TARGETS.get(name),
            "paper, 8 A100": PAPER[name],
        }
        for j, (label, value) in enumerate(bars.items()):
            if value is not None:
                place, shown = i + 0.25 * (j - 1), label if i == 0 else None
                accuracies.bar(place, value, 0.23, color=f"C{j}", label=shown)
    losses.set(xlabel="hours", ylabel="training loss")
    losses.legend()
    accuracies.set(ylabel="accuracy of the CNN, %", ylim=(50, 110))
    accuracies.set_xticks(range(len(names)), names)
    accuracies.legend(loc="upper center", ncols=3)
    figure.savefig(pathlib.Path(__file__).parent / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
