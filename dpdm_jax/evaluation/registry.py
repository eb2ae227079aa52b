"""The classifiers by name, each with its recipe."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dpdm_jax import validate
from dpdm_jax.evaluation import classifiers
from dpdm_jax.evaluation.recipes import DPDM, WIDE_RESNET, Recipe
from dpdm_jax.evaluation.wide_resnet import WideResNet

CLASSIFIERS: dict[
    str, Callable[[tuple[int, int, int], int], classifiers.Classifier]
] = {
    "logreg": classifiers.LogReg,
    "mlp": classifiers.MLP,
    "cnn": classifiers.CNN,
    "wrn": WideResNet,
}


def build_classifier(
    name: str, image_shape: tuple[int, int, int], num_classes: int
) -> classifiers.Classifier:
    """Returns a classifier by name.

    Args:
        name: one of ``CLASSIFIERS``.
        image_shape: (h, w, c); "cnn" needs h, w >= 18, "wrn" 8.
        num_classes: >= 2.

    Returns:
        The classifier.

    Raises:
        InputError: an argument is not as described.
    """
    validate.one_of("the classifier", name, CLASSIFIERS)
    validate.integer("num_classes", num_classes, minimum=2)
    height, width, channels = image_shape
    return CLASSIFIERS[name]((height, width, channels), num_classes)


def recipe(
    classifier_name: str,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> Recipe:
    """Returns a classifier's recipe.

    Args:
        classifier_name: a name in ``CLASSIFIERS``.
        epochs: in place of the recipe's, if given; so the others.
        batch_size: see ``Recipe``.
        learning_rate: see ``Recipe``.

    Raises:
        InputError: there is no such classifier, or a number is out of range.
    """
    validate.one_of("the classifier", classifier_name, CLASSIFIERS)
    chosen: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    return dataclasses.replace(
        WIDE_RESNET if classifier_name == "wrn" else DPDM,
        **{name: value for name, value in chosen.items() if value is not None},
    )
