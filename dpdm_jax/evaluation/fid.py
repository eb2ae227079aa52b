"""The Frechet distance between two sets of features.

Heusel et al., 2017 (arXiv 1706.08500), equation 6. It is called FID only for the
features of ``inception``.
"""

from collections.abc import Iterable

import numpy as np
from scipy import linalg


class Moments:
    """Count, mean and covariance of vectors that pass by; float64, no vector is kept.

    Attributes:
        count: vectors added.
        mean: float64 [d].
    """

    #: Names of what ``to_arrays`` returns and ``from_arrays`` takes.
    FIELDS = ("count", "mean", "scatter")

    def __init__(self, num_features: int):
        """Starts with no vector.

        Args:
            num_features: d, length of the vectors.
        """
        self.count = 0
        self.mean = np.zeros(num_features)
        self._scatter = np.zeros((num_features, num_features))

    @property
    def covariance(self) -> np.ndarray:
        """Float64 [d, d], with divisor count - 1; needs two vectors."""
        return self._scatter / (self.count - 1)

    def add(self, features: np.ndarray) -> None:
        """Adds vectors [n, d]."""
        if len(features) == 0:
            return
        features = np.asarray(features, np.float64)
        mean = features.mean(axis=0)
        centred = features - mean
        self._merge(len(features), mean, centred.T @ centred)

    def merged(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets of vectors together."""
        result = Moments(len(self.mean))
        for part in (self, other):
            result._merge(part.count, part.mean, part._scatter)
        return result

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Returns what ``from_arrays`` takes."""
        values = np.array(self.count), self.mean, self._scatter
        return dict(zip(self.FIELDS, values, strict=True))

    @classmethod
    def from_arrays(
        cls, count: np.ndarray, mean: np.ndarray, scatter: np.ndarray
    ) -> "Moments":
        """Returns the moments that ``to_arrays`` gave away."""
        moments = cls(len(mean))
        moments.count, moments.mean, moments._scatter = int(count), mean, scatter
        return moments

    def _merge(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        # Chan, Golub and LeVeque, 1979: no cancellation between large sums.
        total = self.count + count
        if total == 0:
            return
        step = mean - self.mean
        self.mean = self.mean + step * (count / total)
        self._scatter += scatter
        self._scatter += np.outer(step, step) * (self.count * count / total)
        self.count = total


def moments_of(batches: Iterable[np.ndarray], num_features: int) -> Moments:
    """Returns the moments of batches of vectors, each [n, d]."""
    moments = Moments(num_features)
    for batch in batches:
        moments.add(batch)
    return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Computes ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``.

    With S1 = R R^T, the trace of the root is the sum of the roots of the eigenvalues of
    the symmetric R^T S2 R, which stays accurate where S1 or S2 has no full rank.

    Args:
        a: moments of at least two vectors.
        b: moments of at least two others.

    Returns:
        The distance, in squared units of the features.
    """
    first, second = a.covariance, b.covariance
    root = _root(first)
    # Symmetric, and with the eigenvalues of S1 S2 that are not 0.
    product = linalg.eigvalsh(root.T @ second @ root) if root.size else np.zeros(1)
    # Directions without variance add nothing but rounding errors.
    floor = len(first) * np.finfo(float).eps * max(product[-1], 0.0)
    trace_of_root = np.sum(np.sqrt(product[product > floor]))
    between = np.sum((a.mean - b.mean) ** 2)
    return float(between + np.trace(first) + np.trace(second) - 2 * trace_of_root)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns R [d, rank] with R R^T the covariance [d, d], which may be singular.

    By Cholesky's decomposition with pivots: several times faster than eigenvectors.
    """
    factor, pivots, rank, _ = linalg.lapack.dpstrf(covariance, lower=1)
    if not covariance.any():
        rank = 0
    root = np.empty((len(covariance), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root
