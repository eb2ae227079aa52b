"""Moments of the classes of a data set, by a few Gaussian queries of all of it.

They are means and standard deviations of features and, if asked for, covariances.
An example adds one vector of L2 norm at most 1 to the sum of its class, and nothing to
the others: adding or removing it changes a query by at most 1. Of a unit of several
examples each adds its share, 1 over their number, of such a vector: all of them
together change a query by at most 1. Each query depends on the results before it; all
of them compose (``num_queries``).
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from dpdm_jax import validate
from dpdm_jax.privacy.exact import grid, norms
from dpdm_jax.privacy.exact.grid import ExactSum
from dpdm_jax.privacy.noise import gaussian_noise

# What a query's vectors are clipped to: the noise multiplier is in these units.
_UNIT = grid.grid_of(1.0)
# F, the norm of clipped features in integers, whose products are integers, too. Those
# of a_i a_j for i < j have less than the norm F^2 / sqrt(2), which the spacing makes 1.
_FEATURE_STEPS = math.isqrt(math.floor(math.sqrt(2) / _UNIT.spacing))
_PRODUCT_SPACING = math.sqrt(2) / _FEATURE_STEPS**2

# Public guesses, which trade noise against bias: how far apart classes' spreads are,
# and how small one is.
_CLASS_SPREAD = 0.2
_LEAST_STD = 0.1

#: Features [n, d], labels int [n], and perhaps float64 shares [n] in units of privacy:
#: those of a unit's examples, which are equal, add up to 1. Without, all are 1.
Batch = tuple[np.ndarray, ...]
#: All of the data, each example once.
Batches = Iterable[Batch]


#: What plans, ledgers and statements call them.
NAME = "moments"


def purpose(count: int) -> str:
    """Returns what so many queries did, for a statement."""
    if count == num_queries(covariances=True):
        return "measured means, spreads and covariances of the classes"
    return "measured means and spreads of the classes"


class ClassMoments(NamedTuple):
    """Moments of classes, and behind them those of all examples.

    Attributes:
        mean: float32 [num_classes + 1, d].
        std: float32 [num_classes + 1, d], > 0.
        covariance: float64 [num_classes + 1, d, d], symmetric, about ``std ** 2`` on
            the diagonal; None unless asked for.
    """

    mean: np.ndarray
    std: np.ndarray
    covariance: np.ndarray | None


class Released(NamedTuple):
    """A query and its answer.

    Attributes:
        query: sums contributions of all examples, of sensitivity 1; float32 [classes,
            ...].
        noised: what it gave, and noise; float [classes, ...]. Nothing else of the data
            is released.
    """

    query: Callable[[Batches], ExactSum]
    noised: np.ndarray


class Covariances(NamedTuple):
    """How covariances of features are measured.

    Attributes:
        weights: float [d], > 0, public: the larger, the less noise a feature's
            covariances have, at the cost of the others.
        l2_clip_norm: bound on an example's deviation from its class's mean, by the
            weights, > 0; larger ones are scaled down to it.
    """

    weights: np.ndarray
    l2_clip_norm: float


def num_queries(covariances: bool) -> int:
    """Returns how many queries of all examples ``noised_moments`` makes.

    Args:
        covariances: whether they are measured.
    """
    return 3 if covariances else 2


def num_coordinates(num_classes: int, features: int, *, covariances: bool) -> int:
    """Returns how many numbers the largest query's sum has.

    Args:
        num_classes: see ``noised_moments``.
        features: d.
        covariances: whether they are measured.
    """
    largest = features + 1
    if covariances:
        largest = max(largest, features * (features - 1) // 2)
    return max(num_classes, 1) * largest


def noised_moments(
    batches: Callable[[], Batches],
    num_classes: int,
    mean_prior: np.ndarray,
    covariances: Covariances | None = None,
    *,
    l2_clip_norm: float,
    noise_multiplier: float,
    noise_key: jax.Array,
    on_release: Callable[[Released], None] | None = None,
) -> ClassMoments:
    """Measures the moments of classes.

    Args:
        batches: starts a pass over the data; called for each query. Features are in
            units in which standard deviations near 1 are expected.
        num_classes: labels are in [0, num_classes); 0 for unlabelled data, whose labels
            are 0.
        mean_prior: float [d], guessed variances of the classes' means; public.
        covariances: how they are measured, if they are.
        l2_clip_norm: bound on the features of an example, > 0; larger ones are scaled
            down to it.
        noise_multiplier: sigma of each query, > 0.
        noise_key: see ``gaussian_noise``.
        on_release: is told of each query, for audits.

    Returns:
        The moments; private as the noise says, all that follows from them included.

    Raises:
        InputError: a value is out of range.
    """
    validate.real("l2_clip_norm", l2_clip_norm, above=0)
    validate.real("noise_multiplier", noise_multiplier, above=0)
    if covariances is not None:
        validate.real("covariances.l2_clip_norm", covariances.l2_clip_norm, above=0)
    noise = gaussian_noise(noise_multiplier, noise_key)
    state = noise.init(None)
    classes = max(num_classes, 1)

    def release(query: Callable[[Batches], ExactSum]) -> np.ndarray:
        nonlocal state
        released, state = noise.update(query(batches()), state)
        noised = np.asarray(released, np.float64)
        if on_release is not None:
            on_release(Released(query, noised))
        return noised

    sums = release(
        functools.partial(sum_first, classes=classes, l2_clip_norm=l2_clip_norm)
    )
    scale = math.sqrt(2) * l2_clip_norm
    # No class is taken to be smaller than its noise lets one see.
    counts = np.maximum(math.sqrt(2) * sums[:, -1:], math.sqrt(2) * noise_multiplier)
    mean = scale * sums[:, :-1] / counts
    noise_variance = (scale * noise_multiplier / counts) ** 2
    mean *= mean_prior / (mean_prior + noise_variance)

    sums = release(
        functools.partial(sum_deviations, mean=mean, l2_clip_norm=l2_clip_norm)
    )
    # Of a Gaussian the mean deviation is sqrt(2 / pi) standard deviations.
    scale = math.sqrt(math.pi / 2) * l2_clip_norm
    std = scale * sums / counts
    noise_variance = (scale * noise_multiplier / counts) ** 2
    share = counts / counts.sum()
    pooled = (share * std).sum(axis=0)
    std = pooled + _CLASS_SPREAD**2 / (_CLASS_SPREAD**2 + noise_variance) * (
        std - pooled
    )
    std = np.maximum(std, _LEAST_STD)

    covariance = None
    if covariances is not None:
        sums = release(
            functools.partial(
                _sum_weighted, mean=mean, classes=classes, covariances=covariances
            )
        )
        covariance = _covariance(sums, counts, std, covariances, noise_multiplier)
    if num_classes:
        mean, std, covariance = _with_all(mean, std, covariance, share)
    return ClassMoments(mean.astype(np.float32), std.astype(np.float32), covariance)


def sum_first(batches: Batches, classes: int, l2_clip_norm: float) -> ExactSum:
    """Sums clipped features and counts examples: the first query, without noise.

    Args:
        batches: see ``Batches``.
        classes: number of sums, >= 1.
        l2_clip_norm: see ``noised_moments``.

    Returns:
        [classes, d + 1], of sensitivity 1: sums of features over sqrt(2)
        ``l2_clip_norm``, and counts over sqrt(2).
    """

    def contributions(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        ones = np.ones((len(features), 1))
        clipped = norms.clip_to_one(features / l2_clip_norm)
        # Both parts are at most 1: the grid's truncation and the margin of the clip
        # outweigh the rounding of the root.
        return np.concatenate([clipped, ones], axis=1) / math.sqrt(2)

    return _sum_by_class(batches, classes, contributions)


def sum_deviations(batches: Batches, mean: np.ndarray, l2_clip_norm: float) -> ExactSum:
    """Sums clipped absolute deviations from means: the second query, without noise.

    Squares would be of far larger sensitivity beside what they measure.

    Args:
        batches: see ``Batches``.
        mean: [classes, d], public.
        l2_clip_norm: see ``noised_moments``.

    Returns:
        [classes, d], of sensitivity 1: sums over ``l2_clip_norm``.
    """

    def contributions(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return norms.clip_to_one(np.abs(features - mean[labels]) / l2_clip_norm)

    return _sum_by_class(batches, len(mean), contributions)


def sum_products(batches: Batches, classes: int, l2_clip_norm: float) -> ExactSum:
    """Sums products of two clipped features each: the third query, without noise.

    Args:
        batches: see ``Batches``; of d features.
        classes: number of sums, >= 1.
        l2_clip_norm: see ``Covariances``.

    Returns:
        [classes, d (d - 1) / 2], of sensitivity 1: sqrt(2) times sums of products over
        ``l2_clip_norm ** 2``, row by row of what is above the diagonal of the matrix of
        all. Its Frobenius norm is at most 1 for each example.
    """
    total: np.ndarray = np.zeros((), np.int64)
    for batch in batches:
        features, labels, shares = _with_shares(batch)
        steps = _feature_steps(features / l2_clip_norm, shares)
        each = [steps[labels == k] for k in range(classes)]
        total = total + np.stack([_products(rows) for rows in each])
    first, second = np.triu_indices(total.shape[1], 1)
    return grid.from_integers(total[:, first, second], _PRODUCT_SPACING)


def _feature_steps(features: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Rounds features [n, d] to integers whose squares add up to at most F^2 a unit.

    A row's add up to its share of that, so that its products have as much of theirs.
    """
    scaled = _FEATURE_STEPS * np.sqrt(shares) * norms.clip_to_one(features)
    nearest = np.rint(scaled)
    squares = np.sum(nearest**2, axis=1, keepdims=True)
    fits = squares <= _FEATURE_STEPS**2 * shares
    return np.where(fits, nearest, np.trunc(scaled))


def _products(steps: np.ndarray) -> np.ndarray:
    """Returns sums of products of integers, int64 [d, d], from rows [n, d]."""
    size = steps.shape[1]
    # Products of at most 2^29: float64 holds sums of 2^20 exactly, in any order.
    parts = (steps[i : i + 2**20] for i in range(0, len(steps), 2**20))
    return sum(
        ((part.T @ part).astype(np.int64) for part in parts),
        start=np.zeros((size, size), np.int64),
    )


def _sum_weighted(
    batches: Batches, mean: np.ndarray, classes: int, covariances: Covariances
) -> ExactSum:
    """``sum_products`` of deviations from the means, weighted."""
    weighted = (
        (covariances.weights * (features - mean[labels]), labels, *shares)
        for features, labels, *shares in batches
    )
    return sum_products(weighted, classes, covariances.l2_clip_norm)


def _covariance(
    sums: np.ndarray,
    counts: np.ndarray,
    std: np.ndarray,
    covariances: Covariances,
    noise_multiplier: float,
) -> np.ndarray:
    """Makes covariances [classes, d, d] of noised sums of products.

    Eigenvalues of noise alone lie within an edge of 2 sqrt(d) of its standard deviation
    and are taken for 0; larger ones are shrunk as is best in Frobenius norm for few
    directions under white noise (Gavish and Donoho 2017).
    """
    size = std.shape[1]
    scale = covariances.l2_clip_norm**2 / math.sqrt(2) / counts
    first, second = np.triu_indices(size, 1)
    matrices = np.zeros((len(std), size, size))
    matrices[:, first, second] = scale * sums
    matrices += matrices.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(matrices)
    edge = 2 * math.sqrt(size) * scale * noise_multiplier
    values = np.sign(values) * np.sqrt(np.maximum(values**2 - edge**2, 0))
    weights = covariances.weights
    covariance = np.einsum("kij,kj,klj->kil", vectors, values, vectors, optimize=True)
    covariance /= np.outer(weights, weights)
    diagonal = np.arange(size)
    covariance[:, diagonal, diagonal] += std**2
    return covariance


def _sum_by_class(
    batches: Batches,
    classes: int,
    contributions: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> ExactSum:
    """Adds up shares of vectors of norm at most 1, each truncated to the grid."""
    total: np.ndarray = np.zeros((), np.int64)
    for batch in batches:
        features, labels, shares = _with_shares(batch)
        # The clip's margin outweighs the rounding of a unit's shares.
        vectors = shares * contributions(features, labels)
        steps = np.trunc(vectors / _UNIT.spacing).astype(np.int64)
        total = total + np.stack(
            [steps[labels == k].sum(axis=0) for k in range(classes)]
        )
    return grid.from_integers(total, _UNIT.spacing)


def _with_shares(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns features in float64, labels, and shares [n, 1]."""
    features, labels, *shares = batch
    share = shares[0] if shares else np.ones(len(labels))
    return np.asarray(features, np.float64), labels, share[:, None]


def _with_all(
    mean: np.ndarray, std: np.ndarray, covariance: np.ndarray | None, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Appends the moments of the classes' mixture."""
    overall = (share * mean).sum(axis=0, keepdims=True)
    square = (share * (std**2 + mean**2)).sum(axis=0, keepdims=True)
    if covariance is not None:
        apart = np.sqrt(share) * (mean - overall)
        mixed = (share[:, :, None] * covariance).sum(axis=0) + apart.T @ apart
        covariance = np.concatenate([covariance, mixed[None]])
    return (
        np.concatenate([mean, overall]),
        np.concatenate([std, np.sqrt(square - overall**2)]),
        covariance,
    )
