"""Alignment: do images show what they were asked for by?

A classifier that was trained on the real images judges whether a synthetic image shows
the class that was asked for, by its number or by a caption. All of it reads the real
images outside any privacy budget: it is for their owner alone.
"""

import statistics
from typing import Any

import jax.numpy as jnp
import numpy as np

from dpdm_jax import progress
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import (
    classifiers,
    downstream,
    fitting,
    image_sets,
    predictions,
    registry,
)
from dpdm_jax.evaluation.image_sets import ImageSet, Sets
from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.settings import Settings
from dpdm_jax.evaluation.words import HIGHER, Words

NAME = "alignment"
WORDS = Words(
    NAME,
    "Alignment",
    HIGHER,
    "Share of the synthetic images that a classifier which was trained on the real "
    "ones takes for the class that was asked for.",
)
#: Ends the name of the same share of real test images: no more can be hoped for.
REAL_TEST = "_real_test"


def check(sets: Sets) -> None:
    """Refuses sets whose classes cannot be compared.

    Raises:
        InputError: labels are missing or of other classes, or a class has no real
            image.
    """
    image_sets.check_labels(sets.real, sets.real, NAME)
    image_sets.check_labels(sets.real, sets.synthetic, NAME, every_class=False)
    if sets.real_test is not None:
        image_sets.check_labels(sets.real, sets.real_test, NAME, every_class=False)
    if sets.real.num_classes < 2:
        raise InputError(
            f"{NAME} is asked for and {sets.real.name} has one class; allowed: images "
            "of 2 classes or more."
        )


def measure(sets: Sets, settings: Settings) -> Measured:
    """Trains a classifier on the real images, and has it judge the synthetic ones.

    Args:
        sets: which ``check`` lets pass.
        settings: of the trainings.

    Returns:
        The share, mean over seeds, its spread, and the same of real test images; as
        details the share of each class, and all they depend on.
    """
    shape, classes = sets.real.images.shape[1:], sets.real.num_classes
    name = "cnn" if min(shape[:2]) >= classifiers.CNN_MIN_SIZE else "mlp"
    classifier = registry.build_classifier(name, shape, classes)
    recipe = settings.recipe(name)
    train, selection = downstream.set_apart(sets.real.labelled())
    # Once for all seeds.
    sources = fitting.kept_on_device(train), fitting.on_device(selection)
    judged = {"": sets.synthetic}
    if sets.real_test is not None:
        judged[REAL_TEST] = sets.real_test
    seeds = settings.seeds
    right: dict[str, list[np.ndarray]] = {ending: [] for ending in judged}
    with progress.progress_bar(NAME, len(seeds) * recipe.epochs) as bar:
        for seed in seeds:
            fitted = fitting.fit(
                classifier,
                *sources,
                seed=seed,
                recipe=recipe,
                shuffle=True,
                on_epoch=lambda *_: bar.update(1),
            )
            for ending, each in judged.items():
                right[ending].append(_is_right(classifier, fitted.params, each))
    numbers: dict[str, float | None] = {}
    details: dict[str, Any] = {
        "classifier": name,
        "seeds": list(seeds),
        "num_train": len(train[0]),
        "num_selection": len(selection[0]),
    }
    for ending, each in judged.items():
        shares = [float(np.mean(of_seed)) for of_seed in right[ending]]
        spread = statistics.stdev(shares) if len(shares) > 1 else None
        numbers |= {ending: statistics.fmean(shares), f"{ending}_std": spread}
        details[f"accuracies{ending}"] = shares
        details[f"of_each_class{ending}"] = _of_each_class(each, right[ending])
    caveat = (
        f"{NAME} is judged by a {name} that is wrong about some real images, too: "
        f"compare it with {NAME}{REAL_TEST}"
    )
    return Measured({NAME: numbers}, details={NAME: details}, caveats=(caveat,))


def _is_right(
    classifier: classifiers.Classifier, params: classifiers.Params, judged: ImageSet
) -> np.ndarray:
    images, labels = judged.labelled()
    found = predictions.probabilities(classifier, params, jnp.asarray(images))
    return np.argmax(found, axis=-1) == labels


def _of_each_class(judged: ImageSet, right: list[np.ndarray]) -> dict[str, Any]:
    """Returns the share of each class that occurs, mean over seeds."""
    _, labels = judged.labelled()
    return {
        str(label): float(np.mean([of_seed[labels == label] for of_seed in right]))
        for label in np.unique(labels).tolist()
    }
