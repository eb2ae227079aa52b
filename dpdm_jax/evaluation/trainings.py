"""Trained classifiers in files: what is there is not trained again."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.evaluation import cache, fitting
from dpdm_jax.evaluation.classifiers import Classifier
from dpdm_jax.evaluation.fitting import Fitted, TrainingSet
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.models.identity import named_leaves

_PARAMS = "params/"


class Trainings:
    """The classifiers that were trained on one set and selected with another."""

    def __init__(self, folder: pathlib.Path, images: str):
        """Opens a folder, which may be missing yet.

        Args:
            folder: of files; those of other sets may lie there, too.
            images: tells both sets from all others, such as their checksum.
        """
        self._folder = folder
        self._images = images

    def fit(
        self,
        classifier: Classifier,
        train: TrainingSet,
        selection: TrainingSet,
        *,
        seed: int,
        recipe: Recipe,
        shuffle: bool = False,
        on_epoch: Callable[[int, int, float], None] | None = None,
    ) -> Fitted:
        """Trains a classifier, or reads it; arguments as of ``fitting.fit``."""
        key = json.dumps(
            {
                "classifier": repr(classifier),
                "images": self._images,
                "recipe": dataclasses.asdict(recipe),
                "seed": seed,
                "shuffle": shuffle,
            },
            sort_keys=True,
        )
        name = f"{type(classifier).__name__.lower()}-{cache.checksum(key)[:16]}.npz"
        stored = cache.read_arrays(self._folder / name)
        if stored is not None and (found := _unpacked(stored, key, classifier)):
            return found
        fitted = fitting.fit(
            classifier,
            train,
            selection,
            seed=seed,
            recipe=recipe,
            shuffle=shuffle,
            on_epoch=on_epoch,
        )
        cache.write_arrays(self._folder / name, _packed(fitted, key))
        return fitted


def _packed(fitted: Fitted, key: str) -> dict[str, np.ndarray]:
    params = named_leaves(fitted.params)
    return {
        "key": np.array(key),
        "epoch": np.array(fitted.epoch),
        "selection_accuracy": np.array(fitted.selection_accuracy),
        **{f"{_PARAMS}{name}": np.asarray(leaf) for name, leaf in params.items()},
    }


def _unpacked(
    stored: Mapping[str, np.ndarray], key: str, classifier: Classifier
) -> Fitted | None:
    """Reads what ``_packed`` gave; None if it is of another training."""
    if "key" not in stored or str(stored["key"]) != key:
        return None
    shapes = jax.eval_shape(classifier.init, jax.random.key(0))
    leaves = [jnp.asarray(stored[f"{_PARAMS}{name}"]) for name in named_leaves(shapes)]
    return Fitted(
        jax.tree.unflatten(jax.tree.structure(shapes), leaves),
        int(stored["epoch"]),
        float(stored["selection_accuracy"]),
    )
