"""Count, mean and covariance of many vectors, none of which is kept."""

from collections.abc import Iterable

import numpy as np


class Moments:
    """Moments of vectors that pass by, in float64.

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
