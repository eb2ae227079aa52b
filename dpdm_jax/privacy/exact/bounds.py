"""What the program's noise costs beside the Gaussian noise that is accounted for.

Three mechanisms, on the same integer sums: R adds a continuous Gaussian and rounds,
which is post-processing of the Gaussian mechanism, so that all its accounting holds. D
adds a discrete Gaussian. A adds what the program draws. ``docs/arithmetic.md`` derives
the bounds between them.
"""

import dataclasses
import math
from collections.abc import Iterable

from dpdm_jax.privacy.exact.grid import STEPS_BITS

# Of the sum of the squared noise of all coordinates and steps, the bound that is
# exceeded with probability 2^-100 at most (Laurent and Massart 2000, lemma 1).
_UNLIKELY = 2.0**-100
_LOG = 100 * math.log(2)
# Small draws to a coordinate at most, and what each is off by in total variation: 2^17
# cells, each by 2^-128.
_TERMS = 5
_TABLE = 2.0 ** (17 - 128)


@dataclasses.dataclass(frozen=True)
class Errors:
    """What to add to a guarantee of R for it to be one of A.

    If R is (epsilon, delta)-private, A is (epsilon + ``epsilon``, e^``epsilon`` (delta
    + e^epsilon ``delta``) + ``delta``)-private.

    Attributes:
        epsilon: >= 0.
        delta: >= 0.
    """

    epsilon: float
    delta: float

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.epsilon + other.epsilon, self.delta + other.delta)

    def times(self, number: float) -> "Errors":
        """Returns the errors of so many mechanisms together."""
        return Errors(number * self.epsilon, number * self.delta)


NO_ERRORS = Errors(0.0, 0.0)


def convolution_error(smoothing: float) -> float:
    """Bounds how far x1 + k x2 is from a discrete Gaussian, as a factor 1 +- error.

    Args:
        smoothing: t = s1 s2 / sqrt(s1^2 + k^2 s2^2) of the terms' standard deviations;
            at least 2 for every combination that is drawn.

    Returns:
        2 (e^(-2 pi^2 t^2) + e^(-8 pi^2 t^2) + ...), bounded by a geometric series.
    """
    first = math.exp(-2 * math.pi**2 * smoothing**2)
    return 2 * first / (1 - first)


def rounding_errors(stddev: float, draws: float) -> Errors:
    """Bounds what tells D from R.

    Args:
        stddev: S >= 16, in grid steps.
        draws: coordinates times steps.
    """
    squares = draws + 2 * math.sqrt(draws * _LOG) + 2 * _LOG
    # Rounded noise, for which |n| <= n^2 / (2 S) + S / 2.
    squares = squares * (1 + 1 / (2 * stddev)) + draws * (
        1 / (2 * stddev) + 1 / (4 * stddev**2)
    )
    return Errors((1.001 * draws + squares) / (24 * stddev**2), _UNLIKELY)


def sampling_errors(draws: float) -> Errors:
    """Bounds what tells A from D.

    Args:
        draws: coordinates times steps.
    """
    # A ratio of (1 + e) / (1 - e) or its inverse, for either of two neighbours.
    factor = 2 * (_TERMS - 1) * 3 * convolution_error(2.0)
    return Errors(factor * draws, _TERMS * _TABLE * draws)


def errors(queries: Iterable[tuple[float, int, int]]) -> Errors:
    """Bounds what tells A from R, for several queries together.

    Args:
        queries: noise multiplier, coordinates and number of steps of each.
    """
    total = NO_ERRORS
    for noise_multiplier, coordinates, steps in queries:
        draws = float(coordinates) * steps
        # The clip norm is at least so many grid steps.
        stddev = noise_multiplier * 2.0**STEPS_BITS
        total = total + rounding_errors(stddev, draws) + sampling_errors(draws)
    return total


def most_runs(mean: float, shape: float) -> float:
    """Bounds a random number of runs but for a probability of 2^-100.

    Args:
        mean: >= 1.
        shape: eta >= 0; infinity is Poisson, see ``tuning.Selection``.

    Returns:
        A number of runs.
    """
    if math.isinf(shape):
        # Chernoff: P[K >= k] <= e^-mean (e mean / k)^k <= e^-k from e^2 mean on.
        return max(math.e**2 * mean, _LOG)
    if mean < 1 + 1e-9:
        return 1.0

    # Successive probabilities have the ratio (1 - gamma) (k + eta) / (k + 1), at most
    # 1 - gamma / 2 from k = 2 eta / gamma on. For a mean, gamma is least for eta = 0,
    # where the mean is (1 - gamma) / (gamma ln(1 / gamma)); x is ln(gamma).
    def expected(x: float) -> float:
        return math.expm1(x) / (math.exp(x) * x)

    low, high = -1.0, -1e-12
    while expected(low) < mean:
        low *= 2
    for _ in range(60):  # expected(low) stays at least the mean
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle) >= mean else (low, middle)
    return (2 * shape + 2 * _LOG) / math.exp(low)
