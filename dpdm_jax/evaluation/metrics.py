"""Measures a set of synthetic images against real ones, by any of the metrics.

Everything here reads real images outside the mechanism of differential privacy. If they
are private, so are the results; publishing one is a disclosure of its own.
"""

import pathlib
from collections.abc import Collection, Iterator
from typing import Any

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import (
    alignment,
    image_sets,
    memorisation,
    on_features,
    registry,
    usefulness,
)
from dpdm_jax.evaluation.image_sets import ImageSet, Sets
from dpdm_jax.evaluation.measured import Measured, merged
from dpdm_jax.evaluation.settings import Settings

PRIVATE = "measured on the real images, outside any privacy budget"


def names() -> tuple[str, ...]:
    """Returns the names of all metrics."""
    return (
        *on_features.names(),
        *registry.CLASSIFIERS,
        alignment.NAME,
        memorisation.NAME,
    )


def reading_labels() -> tuple[str, ...]:
    """Returns the names of the metrics that read the classes of all images."""
    return (*registry.CLASSIFIERS, alignment.NAME)


def check_names(metrics: Collection[str]) -> None:
    """Raises InputError unless there are metrics, all of them known."""
    if not metrics:
        raise InputError(f"metrics is empty; allowed: {', '.join(names())}.")
    for name in metrics:
        validate.one_of("a metric", name, names())


def measure(
    metrics: Collection[str],
    real: ImageSet,
    synthetic: ImageSet,
    real_test: ImageSet | None = None,
    *,
    settings: Settings | None = None,
    pictures: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Measures synthetic images.

    Args:
        metrics: some of ``names()``:

            - fid, kid, precision and others of ``registry.FEATURE_METRICS``: between
              the real and the synthetic images, on Inception's features.
            - the same with ``_lenet``: on those of a small CNN trained on the real
              images; never comparable with the former, or between data sets.
            - logreg, mlp, cnn, wrn: accuracy on ``real_test`` of a classifier trained
              on the synthetic images, mean over seeds.
            - alignment: whether the synthetic images show their labels to a classifier
              trained on ``real``, mean over seeds.
            - memorisation: how probably a synthetic image is nearer to its nearest
              image in ``real`` than a fresh one of ``real_test`` is; 0.5 is ideal.
        real: real images, those that the generator was trained on.
        synthetic: the images to judge.
        real_test: real images that it was not trained on; None tests classifiers on
            ``real``. Memorisation needs them.
        settings: None for the defaults.
        pictures: folder for the picture that memorisation draws; None draws none.

    Returns:
        As JSON has values: under each metric's name its number, and beside it

        - NAME_floor for fid and fid_lenet: the distance between two disjoint random
            parts of the real images, halves, or the one part as large as the synthetic
            set if that is smaller: what perfect images could score.
        - NAME_std for kid (over subsets), classifiers and alignment (over seeds; null
            for one).
        - alignment_real_test: the same of ``real_test``, if there is such.
        - NAME_real for classifiers: the same classifier trained on ``real``, if there
            is ``real_test``; NAME_dp_sgd: trained on it by DP-SGD, if ``settings`` say
            so. Both with _std.
        - NAME_ensemble and NAME_real_ensemble for classifiers, if there are several
            seeds: accuracy of the mean of their probabilities.
        - counts, image_shape, settings, caveats, details, private.

    Raises:
        InputError: a name is unknown, or the sets lack what a metric needs.
    """
    settings = settings or Settings()
    settings.check()
    sets = Sets(real, synthetic, real_test)
    check(metrics, sets, settings)
    found = merged(
        [
            Measured(settings={"seed": settings.seed}),
            on_features.measure(metrics, sets, settings, pictures),
            usefulness.measure(metrics, sets, settings),
            *([alignment.measure(sets, settings)] if alignment.NAME in metrics else []),
            *_beside_distances(metrics, sets),
        ]
    )
    numbers = {
        name + ending: value
        for name, measured in found.numbers.items()
        for ending, value in measured.items()
    }
    counts = {"num_real": len(real), "num_synthetic": len(synthetic)}
    if real_test is not None:
        counts["num_real_test"] = len(real_test)
    return (
        numbers
        | counts
        | {
            "image_shape": list(real.images.shape[1:]),
            "real": real.name,
            "synthetic": synthetic.name,
            "real_test": real_test.name if real_test is not None else None,
            "settings": dict(found.settings),
            "details": dict(found.details),
            "caveats": list(found.caveats),
            "private": PRIVATE,
        }
    )


def _beside_distances(metrics: Collection[str], sets: Sets) -> Iterator[Measured]:
    """Says what a distance leaves open, where nothing beside it says that."""
    distances = [name for name in metrics if name in on_features.distances()]
    has_classes = sets.real.labels is not None and sets.synthetic.labels is not None
    if distances and has_classes and alignment.NAME not in metrics:
        names, verb = " and ".join(distances), "say" if distances[1:] else "says"
        yield Measured(
            caveats=(
                f"{names} {verb} nothing of whether images show the class that was "
                f"asked for, which {alignment.NAME} does",
            )
        )


def check(metrics: Collection[str], sets: Sets, settings: Settings) -> None:
    """Refuses what can't be measured, before hours go into measuring the rest.

    Args:
        metrics: see ``measure``.
        sets: of which shapes, labels and the largest pixel are read.
        settings: see ``measure``.

    Raises:
        InputError: see ``measure``.
    """
    check_names(metrics)
    for other in (sets.synthetic, sets.real_test):
        if other is not None:
            image_sets.check_comparable(sets.real, other)
    on_features.check(metrics, sets, settings)
    usefulness.check(metrics, sets, settings)
    if alignment.NAME in metrics:
        alignment.check(sets)
    if memorisation.NAME in metrics:
        memorisation.check(sets)
