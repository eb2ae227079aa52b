"""Features of a small CNN, trained on the spot by one recipe.

They need no download, so that progress can be measured anywhere. A distance on them is
no FID: it depends on the real images that the network learned from, and compares only
with distances on the features of the same network.
"""

import pathlib
from typing import Any

import jax
import numpy as np

from dpdm_jax import progress, rngs
from dpdm_jax.data import transforms
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import cache, classifiers, features, fitting, predictions
from dpdm_jax.evaluation.recipes import Recipe
from dpdm_jax.images import pixels
from dpdm_jax.padding import batch_indices

NUM_STEPS = 1000
BATCH_SIZE = 128
LEARNING_RATE = 1e-3

# Raised when the same data gives another network, or other features, than before.
_VERSION = "lenet_v1"
_MIN_SIZE = 8
_LARGE = 64  # sides from here on are reduced, to at least half of this
_CHUNKS = 10
_ROTATIONS = 4
_MAX_ROTATED = 15_000  # images: each comes four times
_MAX_SCORED = 2_000


class LenetFeatures:
    """The last hidden layer of ``classifiers.CNN``, 128 numbers after the ReLU."""

    name = "lenet"
    num_features = classifiers.CNN_FEATURES
    caveats: tuple[str, ...] = (
        "figures on the small network (names that end in _lenet) are no FID, and "
        "compare only with the same measured against these real images",
    )

    def __init__(
        self,
        classifier: classifiers.CNN,
        params: classifiers.Params,
        settings: dict[str, Any],
    ):
        """Keeps the trained network on every device.

        Args:
            classifier: for prepared images.
            params: its parameters.
            settings: how it was trained, as JSON has values.
        """
        self._params = features.on_every_device(params)
        self._features = jax.jit(
            lambda params, x: classifier.features(params, pixels.to_float(x))
        )
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
        self.fingerprint = cache.checksum(_VERSION, *leaves)
        self.settings = settings
        self.batch_size = 256 * jax.local_device_count()

    def __call__(self, images: np.ndarray) -> jax.Array:
        return self._features(self._params, features.over_devices(prepare(images)))


def check(image_shape: tuple[int, ...], is_labelled: bool) -> None:
    """Refuses images that the network cannot be trained on.

    Args:
        image_shape: (h, w, c).
        is_labelled: whether they have labels.

    Raises:
        InputError: they are too small, or not square though unlabelled.
    """
    height, width, _ = image_shape
    if min(height, width) < _MIN_SIZE or (not is_labelled and height != width):
        raise InputError(
            f"the real images are {transforms.format_shape(image_shape)}; "
            f"allowed for the metrics whose names end in _lenet: at least {_MIN_SIZE}x"
            f"{_MIN_SIZE} pixels, and square unless they have labels."
        )


def train(
    images: np.ndarray,
    labels: np.ndarray | None,
    num_classes: int,
    *,
    num_steps: int = NUM_STEPS,
    seed: int = 0,
    cache_folder: pathlib.Path | None = None,
) -> LenetFeatures:
    """Trains the network, or reads it from the cache.

    It learns the labels. Without labels it learns to tell by how many quarter turns an
    image has been rotated. The same data, recipe and seed give the same network on the
    same machine; the cache makes it the same from then on.

    Args:
        images: uint8 [n, h, w, c], h = w >= 8 (without labels; else h, w >= 8).
        labels: int [n] in [0, num_classes), or None.
        num_classes: >= 2 if there are labels.
        num_steps: steps of Adam, >= 1.
        seed: of initial weights, order and dropout.
        cache_folder: where the network is kept; None keeps it nowhere.

    Returns:
        The features.

    Raises:
        InputError: images are smaller, or not square though unlabelled.
    """
    check(images.shape[1:], labels is not None)
    task = "labels" if labels is not None else "rotations"
    settings = {
        "features": "last hidden layer of the CNN, trained on the real images",
        "task": task,
        "num_steps": num_steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "seed": seed,
    }
    known = (_VERSION, str(sorted(settings.items())), images)
    key = cache.checksum(*known) if labels is None else cache.checksum(*known, labels)
    if labels is None:
        images, labels, num_classes = _rotated(images, seed)
    small = prepare(images)
    classifier = classifiers.CNN(small.shape[1:], num_classes)
    path = cache_folder / f"lenet-{key}.npz" if cache_folder is not None else None
    stored = cache.read_arrays(path) if path is not None else None
    if stored is None:
        params = _train(classifier, small, labels, num_steps, seed)
        if path is not None:
            arrays = {
                f"{layer}.{part}": np.asarray(array)
                for layer, parts in params.items()
                for part, array in parts.items()
            }
            cache.keep_arrays(path, arrays)
    else:
        params = {}
        for name, array in stored.items():
            layer, part = name.split(".")
            params.setdefault(layer, {})[part] = array
    scored = slice(_MAX_SCORED)
    settings["accuracy"] = predictions.accuracy(
        classifier, params, jax.numpy.asarray(small[scored]), labels[scored]
    )
    return LenetFeatures(classifier, params, settings)


def prepare(images: np.ndarray) -> np.ndarray:
    """Brings images to a size that suits the CNN.

    Pixels of small images are repeated until the sides are 18 or more. Sides of 64 or
    more are reduced by the mean of blocks, to 32 or a little more; rows and columns
    that fill no block are left out.

    Args:
        images: uint8 [n, h, w, c], h, w >= 8.

    Returns:
        uint8 [n, h', w', c].
    """
    number, height, width, channels = images.shape
    side = min(height, width)
    if side < classifiers.CNN_MIN_SIZE:
        factor = -(-classifiers.CNN_MIN_SIZE // side)
        return images.repeat(factor, axis=1).repeat(factor, axis=2)
    if side < _LARGE:
        return images
    factor = side // (_LARGE // 2)
    rows, columns = height // factor, width // factor
    blocks = images[:, : rows * factor, : columns * factor].reshape(
        number, rows, factor, columns, factor, channels
    )
    return np.rint(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


def _rotated(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(seed)
    chosen = images[rng.permutation(len(images))[:_MAX_ROTATED]]
    turned = [np.rot90(chosen, turns, axes=(1, 2)) for turns in range(_ROTATIONS)]
    # Turn by turn would put one label after the other.
    images = np.stack(turned, axis=1).reshape(-1, *chosen.shape[1:])
    return images, np.tile(np.arange(_ROTATIONS), len(chosen)), _ROTATIONS


def _train(
    classifier: classifiers.CNN,
    images: np.ndarray,
    labels: np.ndarray,
    num_steps: int,
    seed: int,
) -> classifiers.Params:
    recipe = Recipe(epochs=1, batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE)
    key = rngs.stream(seed, "lenet_init")
    state = fitting.init_state(classifier, recipe, num_steps, key)
    rng = np.random.default_rng(seed)
    passes = -(-num_steps * BATCH_SIZE // len(images))
    order = np.concatenate([rng.permutation(len(images)) for _ in range(passes)])
    batches = batch_indices(order[: num_steps * BATCH_SIZE], BATCH_SIZE)
    x, y = jax.numpy.asarray(images), jax.numpy.asarray(labels, np.int32)
    # Several calls, so that there is progress to show.
    chunk = -(-num_steps // _CHUNKS)
    with progress.progress_bar("features' network", num_steps) as bar:
        for start in range(0, num_steps, chunk):
            part = batches[start : start + chunk]
            key = rngs.stream(seed, "lenet_dropout", start)
            state = fitting.train_epoch(
                classifier, recipe, num_steps, state, x, y, part, key
            )
            jax.block_until_ready(state)
            bar.update(len(part))
    return state.params
