"""The statistical tests here reject a right program with probability 1e-6 each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.diffusion.noise_levels import (
    CosineTime,
    Intervals,
    LogNormal,
    LogUniform,
    TimeMixture,
    VPTime,
    draw,
)
from dpdm_jax.diffusion.schedules import Settings

ERROR_RATE = 1e-6
ALL = [LogNormal(), CosineTime(), LogUniform(), VPTime()]
# arXiv 2302.13861: public training, CIFAR-10 and Camelyon17, MNIST; the mean step.
MIXTURES = [
    (TimeMixture(Settings(), Intervals((30, 800), (0.03, 0.77, 0.2))), 500.0),
    (TimeMixture(Settings(), Intervals((30, 600), (0.015, 0.785, 0.2))), 407.5),
    (TimeMixture(Settings(), Intervals((200, 800), (0.05, 0.9, 0.05))), 500.0),
]
UNIFORM = TimeMixture(Settings())
# Measured on the official code: the 1, 10, 50, 90 and 99 % quantiles of sigma.
PROBABILITIES = np.array([0.01, 0.1, 0.5, 0.9, 0.99])
QUANTILES = [
    (LogNormal(), [0.01847, 0.0647, 0.3012, 1.402, 4.912]),
    (CosineTime(), [0.01709, 0.1586, 0.9904, 5.935, 37.46]),
]


def cdf(levels, sigma):
    """Distribution function of sigma, written down independently and in float64."""
    sigma = np.asarray(sigma, np.float64)
    match levels:
        case LogNormal():
            return stats.norm.cdf((np.log(sigma) + 1.2) / 1.2)
        case CosineTime():
            t_min, t_max = 9.571184e-4, 0.9929281
            return (2 / np.pi * np.arctan(sigma) - t_min) / (t_max - t_min)
        case LogUniform():
            return np.log(sigma / 0.02) / np.log(100 / 0.02)
        case VPTime():
            r = 0.1 / 19.9
            t = -r + np.sqrt(r**2 + 2 * np.log1p(sigma**2) / 19.9)
            return (t - 1e-5) / (1 - 1e-5)


def many(levels, num, multiplicity, *, stratified=False):
    keys = jax.random.split(jax.random.key(3), num)
    one = lambda key: draw(key, levels, multiplicity, stratified=stratified)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(one))(keys))


@pytest.mark.parametrize(("levels", "quantiles"), QUANTILES)
def test_quantiles_of_the_map(levels, quantiles):
    base = stats.norm.ppf(PROBABILITIES) if levels.base == "normal" else PROBABILITIES
    # The figures have four digits.
    np.testing.assert_allclose(
        levels.sigma(jnp.asarray(base, jnp.float32)), quantiles, rtol=1e-3
    )


@pytest.mark.parametrize(("levels", "quantiles"), QUANTILES)
def test_quantiles_of_draws(levels, quantiles):
    num = 200_000
    sigma = many(levels, num, 1)
    for probability, quantile in zip(PROBABILITIES, quantiles, strict=True):
        below = int(np.sum(sigma < quantile))
        # Quantiles of four digits shift a probability by less than 2e-4.
        low = stats.binom.ppf(ERROR_RATE / 2, num, probability - 2e-4)
        high = stats.binom.isf(ERROR_RATE / 2, num, probability + 2e-4)
        assert low <= below <= high


@pytest.mark.parametrize(
    ("levels", "threshold", "probability"),
    [
        (LogNormal(), 1.0, 0.1587),
        (LogNormal(), 5.0, 0.0096),
        (CosineTime(), 1.0, 0.4969),
        (CosineTime(), 5.0, 0.1196),
    ],
)
def test_mass_at_large_noise(levels, threshold, probability):
    num = 200_000
    above = int(np.sum(many(levels, num, 1) > threshold))
    low = stats.binom.ppf(ERROR_RATE / 2, num, probability - 5e-5)
    high = stats.binom.isf(ERROR_RATE / 2, num, probability + 5e-5)
    assert low <= above <= high


@pytest.mark.parametrize(
    ("levels", "at_0", "at_1"),
    [
        (CosineTime(), 1.5034e-3, 90.017),
        (CosineTime(min_log_snr=0.0, max_log_snr=np.log(9.0)), 1 / 3, 1.0),
        (LogUniform(), 0.02, 100.0),
        # About sqrt(0.1 eps_t) at eps_t; sqrt(exp(19.9 / 2 + 0.1) - 1) at t = 1.
        (VPTime(), 1.0005e-3, np.exp(5.025)),
    ],
)
def test_range_of_sigma(levels, at_0, at_1):
    sigma = levels.sigma(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(sigma, [at_0, at_1], rtol=1e-4)


@pytest.mark.parametrize("levels", ALL)
def test_draws_have_the_stated_distribution(levels):
    sigma = many(levels, 25_000, 2).ravel()
    assert stats.kstest(cdf(levels, sigma), "uniform").pvalue > ERROR_RATE


@pytest.mark.parametrize("levels", ALL)
def test_stratified_draws_have_the_stated_distribution(levels):
    num, multiplicity = 50_000, 8
    sigma = many(levels, num, multiplicity, stratified=True)
    # One of each example's draws, chosen at random: these are independent.
    chosen = np.random.default_rng(0).integers(multiplicity, size=num)
    sigma = sigma[np.arange(num), chosen]
    assert stats.kstest(cdf(levels, sigma), "uniform").pvalue > ERROR_RATE


@pytest.mark.parametrize("levels", ALL)
@pytest.mark.parametrize("multiplicity", [1, 8, 32])
def test_stratified_draws_fall_one_into_each_slice(levels, multiplicity):
    sigma = many(levels, 1_000, multiplicity, stratified=True)
    u = np.sort(cdf(levels, sigma), axis=1)
    slices = np.arange(multiplicity)
    rounding = 2e-5  # of sigma in float32, seen through the distribution function
    assert np.all(u >= slices / multiplicity - rounding)
    assert np.all(u <= (slices + 1) / multiplicity + rounding)


@pytest.mark.parametrize("levels", [*ALL, UNIFORM])
def test_stratified_draws_average_with_less_variance(levels):
    num, multiplicity = 20_000, 8
    independent, stratified = (
        np.log(many(levels, num, multiplicity, stratified=s)).mean(axis=1)
        for s in (False, True)
    )
    # The variance falls by about K = 8 at least for smooth functions. A sample variance
    # of 20000 draws is off by a third with a probability far below 1e-6.
    assert stratified.var() < independent.var() / 5
    standard_error = np.sqrt((independent.var() + stratified.var()) / num)
    difference = abs(independent.mean() - stratified.mean())
    assert difference < stats.norm.isf(ERROR_RATE / 2) * standard_error


@pytest.mark.slow
@pytest.mark.parametrize("levels", [*ALL, MIXTURES[1][0]])
@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-24])
def test_stratified_draws_are_finite_at_the_ends(levels, uniform, monkeypatch):
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape: jnp.full(shape, uniform)
    )
    sigma = draw(jax.random.key(0), levels, 2, stratified=True)
    assert np.all(np.isfinite(sigma))
    assert np.all(np.asarray(sigma) > 0)


@pytest.mark.slow
@pytest.mark.parametrize("stratified", [False, True])
def test_draws_follow_the_key(stratified):
    def sigma(seed):
        return draw(jax.random.key(seed), LogNormal(), 4, stratified=stratified)

    np.testing.assert_array_equal(sigma(0), sigma(0))
    assert np.all(np.asarray(sigma(0)) != np.asarray(sigma(1)))
    assert sigma(0).shape == (4,)
    assert sigma(0).dtype == jnp.float32


def steps_of(levels, sigma):
    """Numbers of steps, read back from noise levels in float32."""
    table = levels.settings.tables.sigmas.astype(np.float32)
    steps = np.searchsorted(table, sigma)
    np.testing.assert_array_equal(table[steps], sigma)
    return steps


@pytest.mark.parametrize(("levels", "mean"), MIXTURES)
def test_mixture_has_the_published_masses_and_mean(levels, mean):
    ends = (0, *levels.drawn.intervals, 1000)
    masses = np.add.reduceat(levels.probabilities, ends[:-1])
    np.testing.assert_allclose(masses, levels.drawn.weights, rtol=1e-12)
    # Uniform on [l, u), a step stands for the times up to the next one.
    middles = np.arange(1000) + 0.5
    np.testing.assert_allclose(levels.probabilities @ middles, mean, rtol=1e-12)
    # The published density over the uniform one.
    density = {0.77: (1, 1, 1), 0.785: (0.5, 1.377, 0.5), 0.9: (0.25, 1.5, 0.25)}
    np.testing.assert_allclose(
        1000 * levels.probabilities[list(ends[:-1])],
        density[levels.drawn.weights[1]],
        rtol=1e-3,
    )


def test_mixture_is_uniform_by_default():
    np.testing.assert_allclose(UNIFORM.probabilities, 1e-3)


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("levels", [*(levels for levels, _ in MIXTURES), UNIFORM])
def test_mixture_draws_steps_with_their_probabilities(levels, stratified):
    num, multiplicity = 50_000, 4 if stratified else 1
    sigma = many(levels, num, multiplicity, stratified=stratified)
    if stratified:  # one draw of each example, so that they are independent
        sigma = sigma[np.arange(num), np.arange(num) % multiplicity]
    steps = steps_of(levels, sigma.ravel())
    counts = np.bincount(steps, minlength=1000)
    expected = levels.probabilities * len(steps)
    assert expected.min() > 10
    assert stats.chisquare(counts, expected).pvalue > ERROR_RATE


def test_test_of_the_mixture_sees_another_one():
    steps = steps_of(UNIFORM, many(UNIFORM, 12_500, 8).ravel())
    levels = TimeMixture(Settings(), Intervals((30, 800), (0.03, 0.73, 0.24)))
    counts = np.bincount(steps, minlength=1000)
    expected = levels.probabilities * len(steps)
    assert stats.chisquare(counts, expected).pvalue < ERROR_RATE


def test_stratified_steps_lie_in_slices_of_equal_probability():
    steps = steps_of(UNIFORM, many(UNIFORM, 1000, 8, stratified=True))
    np.testing.assert_array_equal(steps // 125, np.tile(np.arange(8), (1000, 1)))


def test_steps_of_no_weight_are_never_drawn():
    levels = TimeMixture(Settings("cosine", 10), Intervals((2, 5), (0.0, 1.0, 0.0)))
    base_draws = jnp.array([0.0, 0.3333, 0.3334, 0.9999999, 1.0])
    assert steps_of(levels, np.asarray(levels.sigma(base_draws))).tolist() == [
        *(2, 2, 3, 4, 4)
    ]
