"""Draws results/, and the CNNs of mnist_cpu, beside the paper's figures.

python -m experiments.table_2.plot

Writes table_2.png.
"""

import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.mnist_cpu.runs import RESULTS

_FOLDER = pathlib.Path(__file__).parent
PICTURE = _FOLDER / "table_2.png"

#: ``(data, epsilon, classifier, source)``
Cell = tuple[str, float, str, str]

_DATA = ("mnist", "fashion_mnist")
_EPSILONS = (0.2, 1.0, 10.0)
_CLASSIFIERS = ("logreg", "mlp", "cnn")
_SOURCES = ("DP-SGD", "samples")

#: DPDM, arXiv 2210.09929, table 2: by data and epsilon, LogReg, MLP and CNN.
PAPER = {
    ("mnist", 0.2): {"DP-SGD": (83.8, 82.0, 69.9), "samples": (81.0, 81.7, 86.3)},
    ("mnist", 1.0): {"DP-SGD": (89.1, 89.6, 88.2), "samples": (86.7, 91.6, 95.3)},
    ("mnist", 10.0): {"DP-SGD": (91.6, 92.9, 96.4), "samples": (90.8, 94.8, 98.1)},
    ("fashion_mnist", 0.2): {
        "DP-SGD": (74.8, 73.9, 59.5),
        "samples": (70.4, 71.3, 72.3),
    },
    ("fashion_mnist", 1.0): {
        "DP-SGD": (79.6, 79.6, 70.5),
        "samples": (76.3, 76.9, 79.4),
    },
    ("fashion_mnist", 10.0): {
        "DP-SGD": (83.3, 83.9, 77.1),
        "samples": (81.1, 83.0, 86.2),
    },
}


def main() -> None:
    """Draws every classifier's accuracy at every epsilon."""
    found = accuracies(
        _read(_FOLDER / "results", "*.json"), _read(RESULTS, "*_check.json")
    )
    figure = Figure(figsize=(14, 6), layout="constrained")
    for data, row in zip(_DATA, figure.subplots(2, 3, sharey=True), strict=True):
        for classifier, axes in zip(_CLASSIFIERS, row, strict=True):
            _draw(axes, data, classifier, found)
        row[0].set_ylabel("accuracy, %")
    row[-1].legend(fontsize=8, loc="lower right")
    figure.savefig(PICTURE, dpi=100)


def accuracies(
    measured: Sequence[dict[str, Any]], checks: Sequence[dict[str, Any]]
) -> dict[Cell, float]:
    """Accuracies in percent; training without privacy has no cell.

    Args:
        measured: what ``python -m experiments.table_2`` printed.
        checks: what ``python -m experiments.mnist_cpu.check`` printed.
    """
    found = {}
    for result in measured:
        for row in result["rows"]:
            source, epsilon = "DP-SGD", row["epsilon"]
            if "release" in result:
                source, epsilon = "samples", _planned_epsilon(result["release"])
            if epsilon is not None:
                cell = result["data"], epsilon, row["classifier"], source
                found[cell] = 100 * row["accuracy"]
    for check in checks:
        name = check["release"]
        data, epsilon = name.partition("_eps")[0], _planned_epsilon(name)
        found[data, epsilon, check["classifier"], "samples"] = 100 * check["accuracy"]
    return found


def _planned_epsilon(release: str) -> float:
    """What a run was to spend; it spends that or a little less."""
    return float(release.partition("_eps")[2])


def _read(folder: pathlib.Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob(pattern))]


def _draw(axes: Axes, data: str, classifier: str, found: dict[Cell, float]) -> None:
    places = range(len(_EPSILONS))
    column = _CLASSIFIERS.index(classifier)
    for (i, source), kind in itertools.product(
        enumerate(_SOURCES), ("obtained", "paper")
    ):
        values = [
            PAPER[data, epsilon][source][column]
            if kind == "paper"
            else found.get((data, epsilon, classifier, source), float("nan"))
            for epsilon in _EPSILONS
        ]
        obtained = kind == "obtained"
        marks = "o-" if obtained else "x:"
        axes.plot(places, values, marks, color=f"C{i}", label=f"{source}, {kind}")
    axes.set_xticks(places, [f"{epsilon:g}" for epsilon in _EPSILONS])
    axes.set_xlabel("epsilon")
    axes.set_title(f"{classifier} on {data}", fontsize=10)


if __name__ == "__main__":
    main()
