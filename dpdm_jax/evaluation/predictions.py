"""What trained classifiers say of images, and how often it is right."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dpdm_jax.evaluation import classifiers
from dpdm_jax.images import pixels
from dpdm_jax.padding import PADDING, batch_indices

_BATCH_SIZE = 500


def accuracy(
    classifier: classifiers.Classifier,
    params: classifiers.Params,
    images: jax.Array,
    labels: jax.Array | np.ndarray,
) -> float:
    """Returns the fraction of uint8 images [n, h, w, c] that get their label [n]."""
    size = len(images)
    return (
        int(_count_correct(classifier, params, images, labels, _batches(size))) / size
    )


@functools.partial(jax.jit, static_argnames="classifier")
def _count_correct(
    classifier: classifiers.Classifier,
    params: classifiers.Params,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
) -> jax.Array:
    def count(total: jax.Array, batch: jax.Array) -> tuple[jax.Array, None]:
        logits = classifier.apply(params, pixels.to_float(images[batch]))
        correct = jnp.argmax(logits, axis=-1) == labels[batch]
        return total + jnp.sum(correct & (batch != PADDING)), None

    return jax.lax.scan(count, jnp.int32(0), batches)[0]


def probabilities(
    classifier: classifiers.Classifier, params: classifiers.Params, images: jax.Array
) -> np.ndarray:
    """Returns what a classifier thinks of uint8 images [n, h, w, c].

    Returns:
        float32 [n, num_classes], of sum 1 in each row.
    """
    size = len(images)
    found = _probabilities(classifier, params, images, _batches(size))
    return np.asarray(found).reshape(-1, classifier.num_classes)[:size]


def ensemble_accuracy(members: Sequence[np.ndarray], labels: ArrayLike) -> float:
    """Returns the accuracy of several classifiers' mean probabilities.

    Args:
        members: ``probabilities`` of each, float [n, num_classes].
        labels: int [n].
    """
    means = np.mean(members, axis=0, dtype=np.float64)
    return float(np.mean(np.argmax(means, axis=-1) == np.asarray(labels)))


@functools.partial(jax.jit, static_argnames="classifier")
def _probabilities(
    classifier: classifiers.Classifier,
    params: classifiers.Params,
    images: jax.Array,
    batches: jax.Array,
) -> jax.Array:
    def predict(batch: jax.Array) -> jax.Array:
        logits = classifier.apply(params, pixels.to_float(images[batch]))
        return jax.nn.softmax(logits)

    return jax.lax.map(predict, batches)


def _batches(size: int) -> np.ndarray:
    return batch_indices(np.arange(size), min(_BATCH_SIZE, size))
