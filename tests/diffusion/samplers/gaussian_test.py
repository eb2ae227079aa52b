"""Samplers against known answers: for Gaussian data the ideal denoiser is known.

For data N(mu, s^2) it is ``(s^2 x + sigma^2 mu) / (s^2 + sigma^2)``, and the
probability-flow ODE scales ``x - mu`` like ``sqrt(s^2 + sigma^2)``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.diffusion.discretizations import edm_grid, step_grid
from dpdm_jax.diffusion.samplers import DDIM, Ancestral, DDIMEta, Heun, sample
from dpdm_jax.diffusion.schedules import linear

MEAN, STD = 0.3, 0.5
# Each statistical test rejects a right program with this probability.
ERROR_RATE = 1e-6


def denoise(x, sigma):
    variance = sigma[:, None, None, None] ** 2
    return (STD**2 * x + variance * MEAN) / (STD**2 + variance)


def exact_ode(start, grid):
    """The denoised end of the ODE that starts at ``grid[0] * start``."""
    shrink = np.sqrt((STD**2 + grid[-1] ** 2) / (STD**2 + grid[0] ** 2))
    end = MEAN + (grid[0] * start - MEAN) * shrink
    return (STD**2 * end + grid[-1] ** 2 * MEAN) / (STD**2 + grid[-1] ** 2)


def no_noise(step):
    raise AssertionError("a deterministic sampler drew noise")


@pytest.mark.slow
@pytest.mark.parametrize(("make", "order"), [(DDIM, 1), (Heun, 2)])
def test_order_of_convergence(make, order):
    start = np.linspace(-2.0, 2.0, 8).reshape(-1, 1, 1, 1)
    steps = np.array([64, 128, 256, 512, 1024])
    errors = []
    with jax.enable_x64(True):
        for num in steps:
            grid = edm_grid(num + 1)
            end = sample(make(grid), denoise, jnp.asarray(start), no_noise)
            assert end.dtype == jnp.float64
            errors.append(np.abs(np.asarray(end) - exact_ode(start, grid)).max())
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    # The next order's term bends the line by less than this at these step counts.
    assert slope == pytest.approx(order, abs=0.1)


def draw(sampler, num=20_000):
    """Samples of one pixel, num of them, standardized by the data's mean and std."""
    keys = jax.random.split(jax.random.key(11), len(sampler.grid) + 1)
    shape = (num, 1, 1, 1)
    run = jax.jit(
        lambda start: sample(
            sampler, denoise, start, lambda step: jax.random.normal(keys[step], shape)
        )
    )
    images = run(jax.random.normal(keys[-1], shape))
    return (np.ravel(images).astype(np.float64) - MEAN) / STD


STOCHASTIC = [
    DDIM(edm_grid(400), stochastic=True),
    Heun(edm_grid(60), s_churn=30.0),
    Heun(edm_grid(60), s_churn=60.0),
    Heun(edm_grid(60), s_churn=40.0, s_min=0.05, s_max=50.0),
    Ancestral(step_grid(linear()), "fixed_large"),
    Ancestral(step_grid(linear()), "fixed_small"),
    DDIMEta(step_grid(linear()), eta=0.8),
]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_noise_of_a_sampler_keeps_the_distribution(sampler):
    num = 20_000
    x = draw(sampler, num)
    assert stats.kstest(x, "norm").pvalue > ERROR_RATE
    z = stats.norm.isf(ERROR_RATE / 2)
    # Of a finite grid: the bias shown by the next test.
    bias = 0.01
    assert abs(x.mean()) < z / np.sqrt(num) + bias
    assert abs(x.std() - 1) < z / np.sqrt(2 * num) + bias


@pytest.mark.parametrize(
    "sampler",
    [Heun(edm_grid(60), s_churn=40.0, s_noise=s_noise) for s_noise in (0.9, 1.1)],
)
def test_test_of_the_distribution_sees_wrong_noise(sampler):
    assert stats.kstest(draw(sampler), "norm").pvalue < ERROR_RATE


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_noise_of_a_sampler_mixes(sampler):
    """One start leads to different images: the noise replaces the start's."""
    keys = jax.random.split(jax.random.key(12), 2)

    @jax.jit
    def end(key):
        def noise(step):
            return jax.random.normal(jax.random.fold_in(key, step), (1000, 1, 1, 1))

        start = jax.random.normal(jax.random.key(13), (1000, 1, 1, 1))
        return jnp.ravel(sample(sampler, denoise, start, noise))

    first, second = end(keys[0]), end(keys[1])
    # Without noise the correlation is 1; a correlation of 1000 independent pairs is
    # beyond 5 / sqrt(1000) = 0.16 with probability 6e-7.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.16
