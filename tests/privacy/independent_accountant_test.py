"""Plans beside an accountant of our own: numerical, in two bounds, no dp-accounting.

The privacy loss of each query is rounded down to a grid and composed by a fast Fourier
transform. A rounding error is between 0 and the grid's width; the errors of T steps
keep near T times their mean (Hoeffding), so that the composed loss is known to within
that but for a small probability, which is added to delta or taken from it, as is what
the grid's ends cut off (Gopi, Lee, Wutschitz 2021, arXiv 2106.02848, theorem 5).
"""

import json
import math

import numpy as np
import pytest
import scipy.fft
import scipy.optimize
from scipy.special import ndtr

from dpdm_jax.privacy import PoissonSampling, accounting
from dpdm_jax.release import privacy_files
from experiments.mnist_cpu.runs import RELEASES

# Of each of two: the errors' deviation, and rounding in the Fourier transform (measured
# to be below 1e-12); both far below every delta here.
_SLACK = 1e-9


def loss(x, q, sigma):
    """Privacy loss of one step at the outcome x, of the sum with the example in it."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-q), math.log(q) + (2 * x - 1) / (2 * sigma**2))


def outcome(losses, q, sigma):
    """Undoes ``loss``; -inf below the least loss."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        inner = np.maximum((np.expm1(losses) + q) / q, 0)
        return sigma**2 * np.log(inner) + 0.5


def masses(edges, q, sigma, removed):
    """Probability of the losses between edges; of those beyond; mean of all."""
    z = np.linspace(-40, 40, 200_001)
    weight = np.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    without, within = (float(weight @ loss(sigma * z + s, q, sigma)) for s in (0, 1))
    if removed:  # outcomes of the sum with the example in it
        x = outcome(edges, q, sigma)
        below = (1 - q) * ndtr(x / sigma) + q * ndtr((x - 1) / sigma)
        above = (1 - q) * ndtr(-x / sigma) + q * ndtr((1 - x) / sigma)
        mean = (1 - q) * without + q * within
    else:
        x = outcome(-edges, q, sigma)
        below, above, mean = ndtr(-x / sigma), ndtr(x / sigma), -without
    # Each difference on the side where it is not one of numbers near 1.
    inside = np.where(edges[:-1] >= 0, above[:-1] - above[1:], below[1:] - below[:-1])
    return np.maximum(inside, 0), below[0] + above[-1], mean


def bounds(queries, delta, window, size=2**18):
    """Returns a lower and an upper bound of epsilon.

    Args:
        queries: (q, sigma, steps) of each.
        delta: of all of them composed.
        window: losses of the composition from minus to plus this are represented.
        size: of the grid.
    """
    width = 2 * window / size
    grid = (np.arange(size) - size // 2) * width
    edges = np.append(grid, window)
    found = []
    for removed in (True, False):
        spectrum, shift, steps, cut = 1.0, 0.0, 0, 0.0
        rate = 25 / window
        growth = np.zeros(2)
        for q, sigma, count in queries:
            inside, beyond, mean = masses(edges, q, sigma, removed)
            spectrum = spectrum * scipy.fft.rfft(np.fft.ifftshift(inside)) ** count
            shift += count * (mean - float(inside @ grid))
            steps += count
            cut += count * beyond
            moments = [np.log(inside @ np.exp(s * rate * grid)) for s in (-1, 1)]
            growth += count * np.array(moments)
        composed = np.fft.fftshift(scipy.fft.irfft(spectrum, n=size))
        # What is beyond the window comes back at its other end: Chernoff's bound.
        aliased = float(np.exp(growth - rate * window).sum())
        deviation = width * math.sqrt(steps * math.log(2 / _SLACK) / 2)
        slack = 2 * _SLACK + cut + aliased
        assert slack < 0.01 * delta, slack

        def epsilon(target, composed=composed, at=grid + shift):
            def excess(e):
                over = at > e
                return float(composed[over] @ -np.expm1(e - at[over])) - target

            return scipy.optimize.brentq(excess, 0, window) if excess(0) > 0 else 0.0

        found.append(
            (epsilon(delta + slack) - deviation, epsilon(delta - slack) + deviation)
        )
    return max(low for low, _ in found), max(high for _, high in found)


def released(name):
    fields = json.loads((RELEASES / name / "PRIVACY.json").read_text())
    record, _ = privacy_files.read_accounted(fields)
    return record.accounted_events()


def published(num_examples, batch_size, epochs, sigma):
    sampling = PoissonSampling.from_batch_size(num_examples, batch_size, epochs=epochs)
    return [accounting.Event(sampling, sigma, sampling.num_steps)]


def test_the_oracle_knows_the_exact_gaussian():
    """Balle and Wang 2018, theorem 8."""
    mu, delta = math.sqrt(100) / 5, 1e-5

    def excess(e):
        return ndtr(mu / 2 - e / mu) - math.exp(e) * ndtr(-mu / 2 - e / mu) - delta

    exact = scipy.optimize.brentq(excess, 0, 100, xtol=1e-12)
    low, high = bounds([(1.0, 5.0, 100)], delta, 40.0, 2**20)
    assert low <= exact <= high <= 1.002 * low


def case(name, events, delta, window, size, marks=()):
    return pytest.param(events, delta, window, size, id=name, marks=marks)


@pytest.mark.parametrize(
    ("events", "delta", "window", "size"),
    [
        case("cpu-0.2", lambda: released("mnist_eps0.2"), 1e-5, 4.0, 2**18),
        case("cpu-1", lambda: released("mnist_eps1"), 1e-5, 8.0, 2**18),
        case("cpu-10", lambda: released("fashion_mnist_eps10"), 1e-5, 50.0, 2**18),
        case(
            "mnist-10", lambda: published(60000, 4096, 300, 2.3551), 1e-5, 50.0, 2**19
        ),
        case(
            "celeba-1",
            lambda: published(162770, 2048, 300, 8.2266),
            1e-6,
            8.0,
            2**20,
            pytest.mark.slow,
        ),
        case(
            "imagenet-10",
            lambda: published(1281167, 2048, 100, 0.5873),
            7e-7,
            50.0,
            2**20,
            pytest.mark.slow,
        ),
    ],
)
def test_epsilon_of_plans(events, delta, window, size):
    events = events()
    queries = [
        (e.sampling.sampling_probability, e.noise_multiplier, e.num_steps)
        for e in events
    ]
    low, high = bounds(queries, delta, window, size)
    assert high <= 1.02 * low
    assert low <= accounting.epsilon_of_events(events, delta, "pld") <= 1.003 * high
    assert low <= accounting.epsilon_of_events(events, delta, "rdp") <= 1.2 * high
