"""Learning curves in words."""

from collections.abc import Sequence
from typing import Any

from dpdm_jax.evaluation import checkpoint_images, tables


def describe(points: Sequence[dict[str, Any]]) -> str:
    """Says what ``run.learning_curve`` found, as a table."""
    rows = [["images", "classifier", "accuracy", "ensemble"]]
    for point in points:
        ensemble = point["ensemble_accuracy"]
        rows.append(
            [
                f"{point['num_images']:,}",
                point["classifier"],
                tables.accuracy(point),
                "-" if ensemble is None else tables.percent(ensemble),
            ]
        )
    settings = points[0]["settings"]
    return "\n".join(
        [
            f"PRIVATE, {checkpoint_images.PRIVATE}.",
            f"Classifiers trained on synthetic images alone, on {settings['num_test']} "
            "real test images:",
            *tables.lines(rows),
        ]
    )
