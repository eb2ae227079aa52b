"""Evaluation of synthetic images by dpdm_jax; runs in a ``worker.Worker``."""

from collections.abc import Callable

import numpy as np

from dpdm_jax import xla_flags
from dpdm_jax.evaluation import downstream, features, inception, registry
from dpdm_jax.evaluation.inception_weights import Weights
from experiments.benchmarks import evaluation_problem as problem


def sides(
    num_images: int, num_features: int, num_test: int, epochs: int
) -> dict[str, Callable[[], None]]:
    """Features of images, and classifiers trained on images.

    Args:
        num_images: that the classifiers learn and select from.
        num_features: images whose features are computed.
        num_test: images that the classifiers are tested on.
        epochs: of each classifier.

    Returns:
        "ours_features" and one "ours_NAME" a classifier -> function.
    """
    xla_flags.configure()
    params = inception.params_from_state_dict(problem.inception_state())
    extractor = features.InceptionFeatures(Weights(params, "0" * 64, False))
    extractor.batch_size = min(extractor.batch_size, num_features)
    images, labels = problem.labelled(num_images, seed=1)
    test = problem.labelled(num_test, seed=2)
    train, selection = downstream.set_apart((images, labels))

    def compute_features() -> None:
        order = np.arange(num_features)
        for _ in features.compute(extractor, images, order):
            pass

    def train_classifier(name: str) -> None:
        downstream.downstream_accuracy(
            name,
            train,
            selection,
            test,
            problem.NUM_CLASSES,
            seeds=(0,),
            recipe=registry.recipe(name, epochs=epochs),
        )

    return {"ours_features": compute_features} | {
        f"ours_{name}": lambda name=name: train_classifier(name)
        for name in problem.CLASSIFIERS
    }
