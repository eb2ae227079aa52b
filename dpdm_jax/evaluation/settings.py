"""What the results of an evaluation depend on besides the images."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from dpdm_jax import validate
from dpdm_jax.evaluation import cache, inception_weights, lenet_features, registry
from dpdm_jax.evaluation.dp_sgd import DPSGD
from dpdm_jax.evaluation.inception_weights import Weights
from dpdm_jax.evaluation.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class Settings:
    """What results depend on besides the images.

    Attributes:
        inception_weights: file of the weights; None finds or downloads them.
        features: what metrics whose names end in _features look at: a file that
            ``given_features.export_features`` wrote, one of DINOv2's weights, or a
            function of uint8 images [n, h, w, c] that returns floats [n, d].
        neighbour_images: images of each set, at most and drawn at random, whose
            features are kept for the metrics that look at them, and for memorisation.
            The training images of memorisation are always all of them.
        lenet_steps: training steps of the small CNN.
        classifier_seeds: trainings of each classifier.
        epochs: of each training; None for the classifier's own recipe.
        batch_size: likewise.
        learning_rate: likewise.
        dp_sgd: with it, classifiers are also trained privately on the real images.
        seed: of everything drawn at random; the classifiers' seeds start at it.
        cache_folder: where weights and reference statistics are kept; None keeps no
            statistics and looks for weights in the usual place.
    """

    inception_weights: str | None = None
    features: str | Callable[[np.ndarray], Any] | None = None
    neighbour_images: int = 10_000
    lenet_steps: int = lenet_features.NUM_STEPS
    classifier_seeds: int = 3
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    dp_sgd: DPSGD | None = None
    seed: int = 0
    cache_folder: pathlib.Path | None = dataclasses.field(
        default_factory=cache.default_folder
    )

    def check(self) -> None:
        """Raises InputError unless every number is in range."""
        validate.plain_fields(self)
        smallest = registry.min_images()
        validate.integer("neighbour_images", self.neighbour_images, minimum=smallest)
        for name in ("lenet_steps", "classifier_seeds"):
            validate.integer(name, getattr(self, name), minimum=1)
        validate.integer("seed", self.seed, minimum=0)
        for name in registry.CLASSIFIERS:
            self.recipe(name)

    @property
    def seeds(self) -> range:
        """Of each classifier's trainings."""
        return range(self.seed, self.seed + self.classifier_seeds)

    def recipe(self, classifier_name: str) -> Recipe:
        """Returns how a classifier is trained; InputError if a number is wrong."""
        return registry.recipe(
            classifier_name,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )

    def load_inception(self) -> Weights:
        """Reads or downloads Inception's weights; InputError if that is impossible."""
        folder = self.cache_folder or cache.default_folder()
        return inception_weights.load(self.inception_weights, folder)
