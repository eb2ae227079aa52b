"""What an evaluation chooses by name: metrics on features, and classifiers."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dpdm_jax import validate
from dpdm_jax.evaluation import classifiers
from dpdm_jax.evaluation.feature_metric import FeatureMetric
from dpdm_jax.evaluation.fid import Fid
from dpdm_jax.evaluation.kid import Kid
from dpdm_jax.evaluation.precision_recall import Covering
from dpdm_jax.evaluation.recipes import DPDM, WIDE_RESNET, Recipe
from dpdm_jax.evaluation.sliced import Sliced
from dpdm_jax.evaluation.wide_resnet import WideResNet

_FEATURE_METRICS: tuple[FeatureMetric, ...] = (Fid(), Kid(), Sliced(), Covering())

#: Metrics on features, by the names of their numbers.
FEATURE_METRICS = {
    words.name: metric for metric in _FEATURE_METRICS for words in metric.words
}


@dataclasses.dataclass(frozen=True)
class RegisteredClassifier:
    """What a classifier's name stands for.

    Attributes:
        build: of (h, w, c) and the number of classes.
        recipe: how it is trained.
        title: its name for people.
    """

    build: Callable[[tuple[int, int, int], int], classifiers.Classifier]
    recipe: Recipe
    title: str


CLASSIFIERS = {
    "logreg": RegisteredClassifier(classifiers.LogReg, DPDM, "Logistic regression"),
    "mlp": RegisteredClassifier(classifiers.MLP, DPDM, "Multi-layer perceptron"),
    "cnn": RegisteredClassifier(classifiers.CNN, DPDM, "Convolutional network"),
    "wrn": RegisteredClassifier(WideResNet, WIDE_RESNET, "Wide residual network"),
}


def min_images() -> int:
    """Returns how many images of a set the neediest metric on features needs."""
    return max(metric.min_images for metric in FEATURE_METRICS.values())


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
    return CLASSIFIERS[name].build((height, width, channels), num_classes)


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
        CLASSIFIERS[classifier_name].recipe,
        **{name: value for name, value in chosen.items() if value is not None},
    )
