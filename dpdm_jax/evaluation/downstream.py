"""Accuracy on real data of classifiers trained on synthetic data.

Protocol of DPDM (Dockhorn et al., 2023, arXiv 2210.09929, section 5.1, and its code):
batches in the order generated; the epoch is selected on other synthetic images, so that
no real data enters the choice, and its accuracy on the real test set is reported.
``recipes`` has the rest. Ours are the seeds: several, since the spread between them is
part of the result. Accuracies are fractions of 1.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpdm_jax import validate
from dpdm_jax.data import transforms
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import classifiers, fitting, predictions, registry
from dpdm_jax.evaluation.recipes import Recipe

#: ``(images uint8 [n, h, w, c], labels int [n])``
LabelledImages = tuple[np.ndarray, np.ndarray]
#: Trains a classifier; ``fitting.fit`` and what remembers what it returned.
Fit = Callable[..., fitting.Fitted]

# One image in this many selects the epoch and is not trained on.
_SELECTION = 5


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """What one seed gave.

    Attributes:
        seed: of initial weights, dropout, and order if shuffled.
        epoch: the selected epoch, from 1.
        selection_accuracy: at that epoch, on the selection set; None without one.
        test_accuracy: at that epoch, on the test set.
    """

    seed: int
    epoch: int
    selection_accuracy: float | None
    test_accuracy: float


@dataclasses.dataclass(frozen=True)
class DownstreamResult:
    """Test accuracies over seeds, and all that they depend on.

    Attributes:
        classifier: its name.
        runs: one result a seed.
        settings: the training's settings and the sizes of the three sets, as JSON has
            values.
        ensemble: test accuracy of the mean of all seeds' probabilities; None for one
            seed, or where there is no such thing.
    """

    classifier: str
    runs: tuple[SeedResult, ...]
    settings: dict[str, Any]
    ensemble: float | None = None

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Test accuracy of each seed."""
        return tuple(run.test_accuracy for run in self.runs)

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds (n - 1); None for one seed."""
        return statistics.stdev(self.accuracies) if len(self.runs) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON has values."""
        return {
            "classifier": self.classifier,
            "accuracy": self.mean,
            "accuracy_std": self.std,
            "accuracies": list(self.accuracies),
            "ensemble_accuracy": self.ensemble,
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "settings": self.settings,
        }


def downstream_accuracy(
    classifier_name: str,
    train: fitting.TrainingSet,
    selection: fitting.TrainingSet,
    test: LabelledImages,
    num_classes: int,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe | None = None,
    shuffle: bool = False,
    on_epoch: Callable[[int, int, float], None] | None = None,
    fit: Fit = fitting.fit,
) -> DownstreamResult:
    """Trains a classifier on one set, selects its epoch on another, tests on a third.

    The defaults are the protocol, except for "wrn", which is no part of it. It does not
    shuffle: labels of generated images come in random order. Data sorted by class, and
    real data as a comparison, need ``shuffle``. An epoch visits every image once; its
    last batch may be smaller, and its loss is then the mean over that many. If an epoch
    has few batches (a set of a few thousand images), 50 epochs are few steps: give a
    ``recipe`` with more, or with a higher rate.

    Args:
        classifier_name: "logreg", "mlp", "cnn" (at least 18x18 pixels) or "wrn".
        train: the (synthetic) images and labels to train on, in memory or in files;
            every class occurs.
        selection: other (synthetic) ones, to select the epoch: the first that has the
            highest accuracy on them.
        test: the (real) ones whose accuracy at that epoch is reported.
        num_classes: labels lie in [0, num_classes).
        seeds: one training each; different, >= 0.
        recipe: how it is trained; None for ``registry.recipe`` of the classifier.
        shuffle: whether every epoch has its own random order.
        on_epoch: called after every epoch with the seed, the epoch (from 1) and its
            accuracy on the selection set.
        fit: trains, with the arguments of ``fitting.fit``.

    Returns:
        The accuracies and settings.

    Raises:
        InputError: an argument is not as described.
    """
    recipe = recipe or registry.recipe(classifier_name)
    check_seeds(seeds)
    sets = {"training": train, "selection": selection, "test": test}
    image_shape = check_sets(sets, num_classes)
    classifier = registry.build_classifier(classifier_name, image_shape, num_classes)

    # Once for all seeds.
    sources = fitting.kept_on_device(train), fitting.on_device(selection)
    tested = fitting.on_device(test)
    runs, members = [], []
    for seed in seeds:
        fitted = fit(
            classifier,
            *sources,
            seed=seed,
            recipe=recipe,
            shuffle=shuffle,
            on_epoch=on_epoch,
        )
        accuracy = predictions.accuracy(classifier, fitted.params, *tested)
        runs.append(SeedResult(seed, fitted.epoch, fitted.selection_accuracy, accuracy))
        if len(seeds) > 1:
            members.append(
                predictions.probabilities(classifier, fitted.params, tested[0])
            )
    settings = dataclasses.asdict(recipe) | {
        "shuffle": shuffle,
        "seeds": list(seeds),
        "num_train": len(train[0]),
        "num_selection": len(selection[0]),
        "num_test": len(test[0]),
        "image_shape": list(classifier.image_shape),
        "num_classes": num_classes,
        "num_parameters": classifiers.num_parameters(classifier),
    }
    ensemble = predictions.ensemble_accuracy(members, test[1]) if members else None
    return DownstreamResult(classifier_name, tuple(runs), settings, ensemble)


def set_apart(labelled: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Sets every fifth image of each class apart, to select the epoch with.

    Args:
        labelled: images and labels.

    Returns:
        The images to train on, and those set apart; both in the order given.
    """
    images, labels = labelled
    # By class, every so-many-th: a plain stride could miss classes that come in turn.
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[_SELECTION - 1 :: _SELECTION]] = True
    return (images[~chosen], labels[~chosen]), (images[chosen], labels[chosen])


def check_set_apart(labels: np.ndarray, name: str) -> None:
    """Refuses images of which ``set_apart`` would set none apart.

    Args:
        labels: int [n], n >= 1.
        name: what messages call the images.

    Raises:
        InputError: no class has enough of them.
    """
    most = int(np.unique(labels, return_counts=True)[1].max())
    if most < _SELECTION:
        raise InputError(
            f"{name} has up to {most} images of a class; allowed: {_SELECTION} or more "
            f"of one at least, for one in {_SELECTION} is set apart to select the "
            "epoch by."
        )


def shuffled(labelled: LabelledImages, seed: int) -> LabelledImages:
    """Puts images in one random order: files often come sorted by class."""
    images, labels = labelled
    order = np.random.default_rng(seed).permutation(len(labels))
    return images[order], labels[order]


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises InputError unless there are seeds, different and >= 0."""
    for seed in seeds:
        validate.integer("a seed", seed, minimum=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(
            f"seeds are {list(seeds)}; allowed: one or more different integers."
        )


def check_sets(
    sets: Mapping[str, fitting.TrainingSet], num_classes: int
) -> tuple[int, int, int]:
    """Checks labelled images.

    Args:
        sets: by name; the first is trained on, so every class occurs in it.
        num_classes: labels lie in [0, num_classes).

    Returns:
        The shape of one image.

    Raises:
        InputError: a set is not as described, or shapes differ.
    """
    validate.integer("num_classes", num_classes, minimum=2)
    train = next(iter(sets.values()))
    image_shape = train[0].shape[1:]
    for name, labelled in sets.items():
        _check(name, labelled, image_shape, num_classes)
    check_every_class(train[1], num_classes)
    height, width, channels = image_shape
    return height, width, channels


def _check(
    name: str,
    labelled: fitting.TrainingSet,
    image_shape: tuple[int, ...],
    num_classes: int,
) -> None:
    images, labels = labelled
    if images.dtype != np.uint8 or len(images.shape) != 4 or 0 in images.shape:
        raise InputError(
            f"the images of the {name} set are {images.dtype} of shape {images.shape}; "
            "allowed: uint8 of shape (number, height, width, channels), not empty."
        )
    if images.shape[1:] != image_shape:
        raise InputError(
            f"the images of the {name} set are "
            f"{transforms.format_shape(images.shape[1:])}; allowed: "
            f"{transforms.format_shape(image_shape)}, the shape of the training set."
        )
    if labels is None:
        raise InputError(
            f"the {name} set has no labels; allowed: one integer per image, in 0 to "
            f"{num_classes - 1}."
        )
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"the labels of the {name} set are {labels.dtype} of shape {labels.shape}; "
            f"allowed: integers, one per image, ({len(images)},)."
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise InputError(
            f"a label of the {name} set is {labels[outside][0]}; allowed: 0 to "
            f"{num_classes - 1}."
        )


def check_every_class(labels: np.ndarray, num_classes: int) -> None:
    """Raises InputError unless each class is among the labels to train on."""
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if missing.size:
        classes = ", ".join(str(c) for c in missing)
        raise InputError(
            f"the training set has no image of class {classes}; allowed: at least one "
            f"of each of the {num_classes} classes."
        )
