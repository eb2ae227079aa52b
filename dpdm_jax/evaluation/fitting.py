"""How a classifier is trained, and with which epoch's parameters it ends."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpdm_jax import rngs
from dpdm_jax.evaluation import classifiers, predictions
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.images import pixels
from dpdm_jax.padding import PADDING, batch_indices

_SHIFT = 4  # pixels at most, each way
# Sets up to so many bytes stay on the device for all of a training. Of larger ones
# there are two pieces at a time.
_ON_DEVICE_BYTES = 2**30
_PIECE_BYTES = 2**26


class Images(Protocol):
    """Images by their indices: an array, or what reads them from files.

    Attributes:
        shape: (n, h, w, c).
        dtype: uint8.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, indices: np.ndarray, /) -> Any:
        """Returns the images [m, h, w, c] of indices, int [m]."""
        ...


#: ``(images uint8 [n, h, w, c], labels int [n])``
TrainingSet = tuple[Images, Any]


class FitState(NamedTuple):
    """Parameters of a classifier and the optimizer's state."""

    params: classifiers.Params
    opt_state: optax.OptState


class Fitted(NamedTuple):
    """A trained classifier.

    Attributes:
        params: after the selected epoch.
        epoch: the selected one, from 1.
        selection_accuracy: after it, on the selection set.
    """

    params: classifiers.Params
    epoch: int
    selection_accuracy: float


def fit(
    classifier: classifiers.Classifier,
    train: TrainingSet,
    selection: TrainingSet,
    *,
    seed: int,
    recipe: Recipe,
    shuffle: bool = False,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> Fitted:
    """Trains a classifier and selects the first of the best epochs.

    Args:
        classifier: the classifier.
        train: what it is trained on, in memory or in files.
        selection: on which accuracies of the epochs are compared.
        seed: of initial weights, dropout, augmentation, and order if shuffled; >= 0.
        recipe: how it is trained.
        shuffle: whether every epoch has its own random order.
        on_epoch: called after every epoch with the seed, the epoch (from 1) and its
            accuracy on the selection set.

    Returns:
        The classifier after the selected epoch.
    """
    train, selection = kept_on_device(train), on_device(selection)
    order = np.arange(len(train[0]))
    batch_size = min(recipe.batch_size, len(order))
    num_steps = recipe.epochs * -(-len(order) // batch_size)
    state = init_state(
        classifier, recipe, num_steps, rngs.stream(seed, "classifier_init")
    )
    best = Fitted(state.params, 0, -math.inf)
    for epoch in range(1, recipe.epochs + 1):
        if shuffle:
            order = np.random.default_rng((seed, epoch)).permutation(len(train[0]))
        key = rngs.stream(seed, "classifier_dropout", epoch)
        pieces = _pieces(train, batch_indices(order, batch_size))
        piece: _Piece | None = next(pieces)
        while piece is not None:
            state = train_epoch(
                classifier,
                recipe,
                num_steps,
                state,
                piece.images,
                piece.labels,
                piece.batches,
                key,
                piece.first_step,
            )
            # The next one is read while the device works on this one.
            piece = next(pieces, None)
            jax.block_until_ready(state)
        accuracy = predictions.accuracy(classifier, state.params, *selection)
        if accuracy > best.selection_accuracy:
            # Copied, since the next epoch uses these buffers up.
            best = Fitted(jax.tree.map(jnp.copy, state.params), epoch, accuracy)
        if on_epoch is not None:
            on_epoch(seed, epoch, accuracy)
    return best


def on_device(labelled: TrainingSet) -> tuple[jax.Array, jax.Array]:
    """Puts a set on the device; one that is there stays as it is."""
    images, labels = labelled
    if not isinstance(images, jax.Array):
        images = jnp.asarray(images[np.arange(len(images))])
    return images, jnp.asarray(labels, jnp.int32)


def kept_on_device(labelled: TrainingSet) -> TrainingSet:
    """Puts a set to train on onto the device, unless it is too large to stay there."""
    images, labels = labelled
    if math.prod(images.shape) <= _ON_DEVICE_BYTES:
        return on_device(labelled)
    return images, np.asarray(labels, np.int32)


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
    first_step: int | np.int32 = 0,
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
        first_step: number of the first of these steps in the epoch, which may come in
            pieces.

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

    numbers = first_step + jnp.arange(len(batches))
    return jax.lax.scan(step, state, (batches, numbers))[0]


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


class _Piece(NamedTuple):
    """Some batches of an epoch, and the images that they are of."""

    images: Any
    labels: Any
    batches: np.ndarray
    first_step: np.int32


def _pieces(train: TrainingSet, batches: np.ndarray) -> Iterator[_Piece]:
    """Cuts an epoch into pieces that fit on the device; one if its set is there."""
    images, labels = train
    if isinstance(images, jax.Array):
        yield _Piece(images, labels, batches, np.int32(0))
        return
    width = batches.shape[1]
    length = max(1, _PIECE_BYTES // (width * math.prod(images.shape[1:])))
    for first in range(0, len(batches), length):
        part = batches[first : first + length]
        chosen = part[part != PADDING]
        # Padding comes last, so that the images of a piece count through its batches.
        renumbered = batch_indices(np.arange(len(chosen)), width)
        yield _Piece(images[chosen], labels[chosen], renumbered, np.int32(first))
