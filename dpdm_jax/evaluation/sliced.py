"""The sliced Wasserstein distance between two sets of features.

Rabin et al., 2011; Bonneel et al., 2015 (doi 10.1007/s10851-014-0506-3). Features are
projected onto random directions, along each of which the distance of order 2 is that of
sorted numbers. There is no covariance and no root of a matrix, so that it takes few
images, and many features.
"""

from typing import NamedTuple

import numpy as np

from dpdm_jax.evaluation.measured import Measured
from dpdm_jax.evaluation.reference_statistics import Statistics
from dpdm_jax.evaluation.words import LOWER, Words

NUM_DIRECTIONS = 512
_AT_ONCE = 64


class Sliced:
    """The distance of kept features, its standard error, and what real images score."""

    words: tuple[Words, ...] = (
        Words(
            "sliced",
            "Sliced distance",
            LOWER,
            "How far features must be moved, along random directions, to become those "
            "of the real images; the floor is what real images score against real "
            "ones.",
        ),
    )
    min_images = 4
    on_kept = True

    def measure(
        self, real: Statistics, synthetic: Statistics, *, suffix: str, seed: int
    ) -> Measured:
        name, half = f"sliced{suffix}", len(real.kept) // 2
        # As many as are compared, where there are enough of them.
        size = min(half, len(synthetic.kept))
        found = sliced_distance(real.kept, synthetic.kept, seed=seed)
        floor = sliced_distance(real.kept[:size], real.kept[size : 2 * size], seed=seed)
        return Measured(
            {
                name: {
                    "": found.distance,
                    "_std": found.standard_error,
                    "_floor": floor.distance,
                }
            },
            {name: {"directions": NUM_DIRECTIONS, "floor_images": size}},
        )


class SlicedDistance(NamedTuple):
    """A distance in the features' units, and its error by chance of directions."""

    distance: float
    standard_error: float


def sliced_distance(
    a: np.ndarray,
    b: np.ndarray,
    *,
    seed: int = 0,
    num_directions: int = NUM_DIRECTIONS,
) -> SlicedDistance:
    """Computes the root of the mean square of the distances along random directions.

    Args:
        a: float [n, d], n >= 1.
        b: float [m, d], m >= 1.
        seed: of the directions, uniform on the sphere; equal seeds, equal directions.
        num_directions: >= 2.

    Returns:
        The distance, 0 of equal sets and larger the fewer vectors there are, and its
        standard error over directions, first order (that of the vectors is not in it).
    """
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num_directions, a.shape[1])).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    squares = np.concatenate(
        [
            _squares(a @ part.T, b @ part.T)
            for part in np.split(directions, range(_AT_ONCE, num_directions, _AT_ONCE))
        ]
    )
    mean = float(np.mean(squares))
    error = float(np.std(squares, ddof=1)) / num_directions**0.5
    distance = mean**0.5
    return SlicedDistance(distance, error / (2 * distance) if distance else 0.0)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns squared distances of order 2 between columns [n, k] and [m, k], [k].

    The integral of the squared difference of both quantile functions, which are steps.
    """
    n, m = len(a), len(b)
    # In units of 1 / (n m), so that ends of steps are integers.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(ends, prepend=0) / (n * m)
    a, b = np.sort(a, axis=0), np.sort(b, axis=0)
    apart = a[-(-ends // m) - 1].astype(float) - b[-(-ends // n) - 1]
    return widths @ apart**2
