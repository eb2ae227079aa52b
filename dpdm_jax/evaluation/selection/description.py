"""Rankings of classifiers in words."""

import math
from collections.abc import Sequence
from typing import Any

from dpdm_jax.evaluation import tables


def describe(ranked: dict[str, Any]) -> str:
    """Says what ``run.select`` found without real images, as a table."""
    ranking = ranked["ranking"]
    rows = [
        ["rank", *_heading(ranked["varied"]), "accuracy"],
        *(
            [
                str(entry["rank"]),
                *_named(entry, ranked["varied"]),
                tables.accuracy(entry),
            ]
            for entry in ranking
        ),
    ]
    return "\n".join(
        [
            f"{len(ranking)} classifiers, {_trainings(ranked)} on "
            f"{ranked['num_train']} synthetic images, ranked by accuracy on "
            f"{ranked['num_held_out']} others:",
            *tables.lines(rows),
            f"  {ranked['num_held_out']} images give the first accuracy a standard "
            f"error of {tables.percent(_standard_error(ranked))}.",
            f"  {ranked['note']}.",
        ]
    )


def describe_real(compared: dict[str, Any]) -> str:
    """Says what ``run.select`` found with real images, as a table."""
    rows = [
        [
            "rank",
            *_heading(compared["varied"]),
            "accuracy",
            "synthetic rank",
            "synthetic accuracy",
        ],
        *(
            [
                str(entry["rank"]),
                *_named(entry, compared["varied"]),
                tables.accuracy(entry),
                str(entry["rank_synthetic"]),
                tables.percent(entry["accuracy_synthetic"]),
            ]
            for entry in compared["ranking"]
        ),
    ]
    agreement = "  no rank correlation: all of one ranking are equal."
    if compared["spearman"] is not None:
        agreement = (
            "  rank correlation with synthetic images: Spearman "
            f"{compared['spearman']:.2f}, Kendall {compared['kendall']:.2f} (1 is the "
            "same order, 0 none)."
        )
    return "\n".join(
        [
            f"PRIVATE, {compared['private']}.",
            f"The same classifiers on {compared['num_real_test']} real test images:",
            *tables.lines(rows),
            agreement,
            "  the first by synthetic images reaches "
            f"{tables.percent(compared['chosen_accuracy'])} here, the best of the grid "
            f"{tables.percent(compared['best_accuracy'])}.",
        ]
    )


def _trainings(ranked: dict[str, Any]) -> str:
    count = len(ranked["seeds"])
    return "each trained once" if count == 1 else f"each trained {count} times"


def _standard_error(ranked: dict[str, Any]) -> float:
    """Returns that of the first accuracy, as of independent images."""
    accuracy = ranked["ranking"][0]["accuracy"]
    return math.sqrt(accuracy * (1 - accuracy) / ranked["num_held_out"])


def _heading(varied: Sequence[str]) -> list[str]:
    return ["classifier", *(field.replace("_", " ") for field in varied)]


def _named(entry: dict[str, Any], varied: Sequence[str]) -> list[str]:
    settings = entry["settings"]
    return [entry["classifier"], *(tables.value(settings[field]) for field in varied)]
