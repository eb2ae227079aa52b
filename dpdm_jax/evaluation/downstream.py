"""Accuracy on real data of classifiers trained on synthetic data.

Protocol of DPDM (Dockhorn et al., 2023, arXiv 2210.09929, section 5.1, and its code):
batches in the order generated; the epoch is selected on other synthetic images, so that
no real data enters the choice, and its accuracy on the real test set is reported.
``recipes`` has the rest. Ours are the seeds: several, since the spread between them is
part of the result. Accuracies are fractions of 1.
"""

import dataclasses
import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpdm_jax import validate
from dpdm_jax.data import transforms
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import classifiers, registry
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.images import pixels
from dpdm_jax.padding import PADDING, pad_indices
from dpdm_jax.training import rngs

#: ``(images uint8 [n, h, w, c], labels int [n])``
LabelledImages = tuple[np.ndarray, np.ndarray]

_TEST_BATCH_SIZE = 500
# One image in this many selects the epoch and is not trained on.
_SELECTION = 5
_SHIFT = 4  # pixels at most, each way


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
    """

    classifier: str
    runs: tuple[SeedResult, ...]
    settings: dict[str, Any]

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
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "settings": self.settings,
        }


class FitState(NamedTuple):
    """Parameters of a classifier and the optimizer's state."""

    params: classifiers.Params
    opt_state: optax.OptState


def downstream_accuracy(
    classifier_name: str,
    train: LabelledImages,
    selection: LabelledImages,
    test: LabelledImages,
    num_classes: int,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    recipe: Recipe | None = None,
    shuffle: bool = False,
    on_epoch: Callable[[int, int, float], None] | None = None,
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
        train: the (synthetic) images and labels to train on; every class occurs.
        selection: other (synthetic) ones, to select the epoch: the first that has the
            highest accuracy on them.
        test: the (real) ones whose accuracy at that epoch is reported.
        num_classes: labels lie in [0, num_classes).
        seeds: one training each; different, >= 0.
        recipe: how it is trained; None for ``registry.recipe`` of the classifier.
        shuffle: whether every epoch has its own random order.
        on_epoch: called after every epoch with the seed, the epoch (from 1) and its
            accuracy on the selection set.

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

    on_device = [
        (jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in (train, selection, test)
    ]
    runs = [
        _train_and_test(
            classifier,
            *on_device,
            seed=seed,
            recipe=recipe,
            shuffle=shuffle,
            on_epoch=on_epoch,
        )
        for seed in seeds
    ]
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
    return DownstreamResult(classifier_name, tuple(runs), settings)


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


def batch_indices(order: np.ndarray, batch_size: int) -> np.ndarray:
    """Cuts an order of examples into batches.

    Args:
        order: int [n], n >= 1.
        batch_size: >= 1.

    Returns:
        int32 [ceil(n / batch_size), batch_size], the last row filled up with -1.
    """
    return pad_indices(order, batch_size).reshape(-1, batch_size).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def init_state(
    classifier: classifiers.Classifier, recipe: Recipe, num_steps: int, key: jax.Array
) -> FitState:
    """Draws parameters and makes the optimizer's state.

    Args:
        classifier: the classifier.
        recipe: how it is trained.
        num_steps: of the whole training.
        key: typed key.
    """
    params = classifier.init(key)
    return FitState(params, recipe.transform(num_steps).init(params))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def train_epoch(
    classifier: classifiers.Classifier,
    recipe: Recipe,
    num_steps: int,
    state: FitState,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    key: jax.Array,
) -> FitState:
    """Takes one step on the mean cross entropy per batch, in one compiled call.

    Args:
        classifier: the classifier.
        recipe: how it is trained.
        num_steps: of the whole training.
        state: its state, whose buffers are used up.
        images: uint8 [n, h, w, c].
        labels: int32 [n].
        batches: int32 [steps, batch size] of ``batch_indices``.
        key: typed key of this epoch's dropout and augmentation.

    Returns:
        The next state.
    """
    optimizer = recipe.transform(num_steps)

    def step(state: FitState, inputs: Any) -> tuple[FitState, None]:
        batch, number = inputs
        step_key = jax.random.fold_in(key, number)
        x = pixels.to_float(images[batch])
        if recipe.augmentation:
            x = augmented(jax.random.fold_in(step_key, 0), x)
        targets = optax.smooth_labels(
            jax.nn.one_hot(labels[batch], classifier.num_classes),
            recipe.label_smoothing,
        )
        real = batch != PADDING

        def loss(params: classifiers.Params) -> jax.Array:
            logits = classifier.apply(params, x, step_key)
            losses = optax.softmax_cross_entropy(logits, targets)
            return jnp.sum(losses, where=real) / jnp.sum(real)

        grads = jax.grad(loss)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return FitState(optax.apply_updates(state.params, updates), opt_state), None

    return jax.lax.scan(step, state, (batches, jnp.arange(len(batches))))[0]


def augmented(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors images at random and shifts them by up to 4 pixels.

    Args:
        key: typed key.
        x: float [n, h, w, c]; what is shifted in is mirrored at the border.

    Returns:
        float [n, h, w, c].
    """
    mirrored_key, shift_key = jax.random.split(key)
    mirrored = jax.random.bernoulli(mirrored_key, shape=(len(x), 1, 1, 1))
    x = jnp.where(mirrored, x[:, :, ::-1], x)
    around = ((_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0))
    starts = jax.random.randint(shift_key, (len(x), 2), 0, 2 * _SHIFT + 1)

    def shift(image: jax.Array, start: jax.Array) -> jax.Array:
        padded = jnp.pad(image, around, mode="reflect")
        return jax.lax.dynamic_slice(padded, (*start, 0), image.shape)

    return jax.vmap(shift)(x, starts)


def accuracy(
    classifier: classifiers.Classifier,
    params: classifiers.Params,
    images: jax.Array,
    labels: jax.Array | np.ndarray,
) -> float:
    """Returns the fraction of uint8 images [n, h, w, c] that get their label [n]."""
    found = predictions(classifier, params, images)
    return float(np.mean(found == np.asarray(labels)))


def predictions(
    classifier: classifiers.Classifier, params: classifiers.Params, images: jax.Array
) -> np.ndarray:
    """Returns the labels int32 [n] that uint8 images [n, h, w, c] get."""
    size = len(images)
    batches = batch_indices(np.arange(size), min(_TEST_BATCH_SIZE, size))
    return np.asarray(_predict(classifier, params, images, batches)).reshape(-1)[:size]


@functools.partial(jax.jit, static_argnames="classifier")
def _predict(
    classifier: classifiers.Classifier,
    params: classifiers.Params,
    images: jax.Array,
    batches: jax.Array,
) -> jax.Array:
    def predict(batch: jax.Array) -> jax.Array:
        logits = classifier.apply(params, pixels.to_float(images[batch]))
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return jax.lax.map(predict, batches)


def _train_and_test(
    classifier: classifiers.Classifier,
    train: tuple[jax.Array, jax.Array],
    selection: tuple[jax.Array, jax.Array],
    test: tuple[jax.Array, jax.Array],
    *,
    seed: int,
    recipe: Recipe,
    shuffle: bool,
    on_epoch: Callable[[int, int, float], None] | None,
) -> SeedResult:
    results = []

    def on_better(params: classifiers.Params, epoch: int, selected: float) -> None:
        found = accuracy(classifier, params, *test)
        results.append(SeedResult(seed, epoch, selected, found))

    fit(
        classifier,
        train,
        selection,
        seed=seed,
        recipe=recipe,
        shuffle=shuffle,
        on_better=on_better,
        on_epoch=on_epoch,
    )
    return results[-1]


def fit(
    classifier: classifiers.Classifier,
    train: tuple[jax.Array, jax.Array],
    selection: tuple[jax.Array, jax.Array],
    *,
    seed: int,
    recipe: Recipe,
    shuffle: bool,
    on_better: Callable[[classifiers.Params, int, float], None],
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> None:
    """Trains a classifier once, and shows it at the epoch that is selected.

    Args:
        classifier: the classifier.
        train: images uint8 [n, h, w, c] and labels int32 [n].
        selection: others, which select the epoch.
        seed: see ``SeedResult``.
        recipe: how it is trained.
        shuffle: see ``downstream_accuracy``.
        on_better: called whenever the accuracy on the selection set is the highest so
            far, with the parameters, the epoch (from 1) and that accuracy. The last
            call is of the selected epoch. The next epoch uses up the parameters.
        on_epoch: see ``downstream_accuracy``.
    """
    order = np.arange(len(train[0]))
    batch_size = min(recipe.batch_size, len(order))
    num_steps = recipe.epochs * -(-len(order) // batch_size)
    state = init_state(
        classifier, recipe, num_steps, rngs.stream(seed, "classifier_init")
    )
    highest = -math.inf
    for epoch in range(1, recipe.epochs + 1):
        if shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(len(train[0]))
        state = train_epoch(
            classifier,
            recipe,
            num_steps,
            state,
            *train,
            batch_indices(order, batch_size),
            rngs.stream(seed, "classifier_dropout", epoch),
        )
        selected = accuracy(classifier, state.params, *selection)
        if selected > highest:
            highest = selected
            on_better(state.params, epoch, selected)
        if on_epoch is not None:
            on_epoch(seed, epoch, selected)


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises InputError unless there are seeds, different and >= 0."""
    for seed in seeds:
        validate.integer("a seed", seed, minimum=0)
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(
            f"seeds are {list(seeds)}; allowed: one or more different integers."
        )


def check_sets(
    sets: dict[str, LabelledImages], num_classes: int
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
    image_shape = np.shape(train[0])[1:]
    for name, labelled in sets.items():
        _check(name, labelled, image_shape, num_classes)
    _check_every_class(train[1], num_classes)
    return image_shape


def _check(
    name: str,
    labelled: LabelledImages,
    image_shape: tuple[int, ...],
    num_classes: int,
) -> None:
    images, labels = labelled
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
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


def _check_every_class(labels: np.ndarray, num_classes: int) -> None:
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if missing.size:
        classes = ", ".join(str(c) for c in missing)
        raise InputError(
            f"the training set has no image of class {classes}; allowed: at least one "
            f"of each of the {num_classes} classes."
        )
