"""The picture of learning curves."""

import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from dpdm_jax import files
from dpdm_jax.evaluation import checkpoint_images

_SIZE = (5.5, 3.6)  # inches


def draw(path: pathlib.Path, points: Sequence[dict[str, Any]]) -> None:
    """Draws accuracy against number of images, a line a classifier.

    Args:
        path: a PNG file; its folder exists.
        points: what ``run.learning_curve`` returns.
    """
    # The user's own matplotlibrc must not matter.
    with style.context("default", after_reset=True):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        for number, name in enumerate(dict.fromkeys(p["classifier"] for p in points)):
            own = [point for point in points if point["classifier"] == name]
            sizes = [point["num_images"] for point in own]
            axes.errorbar(
                sizes,
                [100 * point["accuracy"] for point in own],
                [100 * (point["accuracy_std"] or 0.0) for point in own],
                color=f"C{number}",
                marker="o",
                capsize=3,
                label=name,
            )
            if all(point["ensemble_accuracy"] is not None for point in own):
                axes.plot(
                    sizes,
                    [100 * point["ensemble_accuracy"] for point in own],
                    color=f"C{number}",
                    linestyle="--",
                    marker=".",
                    label=f"{name}, ensemble",
                )
        axes.set(
            xscale="log",
            xlabel="synthetic images trained on",
            ylabel="accuracy on real test images, %",
        )
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(f"private: {checkpoint_images.PRIVATE}", fontsize=8)
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        with files.replacing(path, private=True) as temporary:
            figure.savefig(temporary, format="png", dpi=150)
