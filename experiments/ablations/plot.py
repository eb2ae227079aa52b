"""Draws results/ as ablations.png.

python -m experiments.ablations.plot
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.ablations.variants import ABLATIONS

_FOLDER = pathlib.Path(__file__).parent
_TITLES = {
    "noise_multiplicity": "noise multiplicity, epsilon 1",
    "diffusion": "diffusion",
    "sampler": "sampler",
    "epsilon": "epsilon",
}


def main() -> None:
    """Draws fid_lenet above and the MLP's accuracy below, a column each ablation."""
    figure = Figure(figsize=(14, 6), layout="constrained")
    columns = figure.subplots(2, len(ABLATIONS), sharey="row").T
    for name, axes in zip(ABLATIONS, columns, strict=True):
        rows = json.loads((_FOLDER / f"results/{name}.json").read_text())["rows"]
        axes[0].set_title(_TITLES[name])
        _bars(axes[0], rows, "fid_lenet", 1)
        _bars(axes[1], rows, "mlp", 100)
        axes[0].set_xticks([])
    columns[0][0].set_ylabel("fid_lenet (lower is better)")
    columns[0][1].set_ylabel("accuracy of the MLP, %")
    figure.savefig(_FOLDER / "ablations.png", dpi=110)


def _bars(
    axes: Axes, rows: list[Mapping[str, Any]], measure: str, factor: float
) -> None:
    samplers = list(dict.fromkeys(row["sampler"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    width = 0.8 / len(samplers)
    for i, sampler in enumerate(samplers):
        points = [
            (variants.index(row["variant"]) + i * width, factor * row[measure])
            for row in rows
            if row["sampler"] == sampler
        ]
        axes.bar(*zip(*points, strict=True), width, label=sampler)
    axes.set_xticks(
        [i + 0.4 - width / 2 for i in range(len(variants))], variants, rotation=60
    )
    if len(samplers) > 1:
        axes.legend(fontsize=8, loc="lower right")


if __name__ == "__main__":
    main()
