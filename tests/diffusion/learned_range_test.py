import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.diffusion import learned_range
from dpdm_jax.diffusion.denoiser import Prediction
from dpdm_jax.diffusion.learned_range import VariationalBound
from dpdm_jax.diffusion.schedules import Settings

T = jnp.array([0, 1, 400, 999])
IMAGE, NOISE, V = jax.random.uniform(jax.random.key(0), (3, 4, 2, 2, 1), minval=-1.0)
LINEAR, COSINE = Settings("linear"), Settings("cosine")


def levels(settings=LINEAR):
    return jnp.asarray(settings.tables.sigmas, jnp.float32)[T]


def predicted(noise, v, settings=LINEAR):
    """What is said of images with NOISE by a network that takes it for another one."""
    clean = IMAGE + levels(settings)[:, None, None, None] * (NOISE - noise)
    return Prediction(clean, jnp.broadcast_to(v, noise.shape))


def bound(noise, v, settings=LINEAR):
    found = predicted(noise, v, settings)
    return VariationalBound(settings)(found, IMAGE, levels(settings))


@pytest.mark.parametrize("v", [-1.0, 0.0, 1.0, 2.0])
def test_variance_lies_between_the_smallest_and_the_largest(v):
    found = learned_range.log_variance(
        jnp.full((1, 1, 1, 1), v), jnp.float32(-5.0), jnp.float32(-3.0)
    )
    np.testing.assert_allclose(found, -4.0 + v, rtol=1e-6)


@pytest.mark.parametrize("settings", [LINEAR, COSINE])
def test_bound_is_zero_for_the_posterior_itself(settings):
    found = bound(NOISE, -1.0, settings)
    np.testing.assert_allclose(found[1:], 0.0, atol=1e-5)
    assert found[0] > 0.5  # bits that even the best decoder needs


def test_bound_is_the_divergence_of_two_gaussians():
    """By numerical integration, in DDPM's own coordinates (Ho et al. 2020, eq. 7)."""
    schedule, guess = LINEAR.tables, NOISE + 0.3
    clean = predicted(guess, V).clean
    found = bound(guess, V)
    for i in (1, 2, 3):
        t = int(T[i])
        x_t = np.sqrt(schedule.alphas_cumprod[t]) * IMAGE[i]
        x_t = x_t + np.sqrt(1.0 - schedule.alphas_cumprod[t]) * NOISE[i]
        right, said = (
            schedule.posterior_mean_coef1[t] * image
            + schedule.posterior_mean_coef2[t] * x_t
            for image in (IMAGE[i], clean[i])
        )
        smallest = schedule.posterior_log_variance_clipped[t]
        share = (V[i] + 1.0) / 2.0
        learned = share * np.log(schedule.betas[t]) + (1.0 - share) * smallest
        bits = []
        for j in np.ndindex(2, 2, 1):
            p = stats.norm(float(right[j]), np.exp(smallest / 2))
            q = stats.norm(float(said[j]), float(np.exp(learned[j] / 2)))
            x = np.linspace(p.mean() - 10 * p.std(), p.mean() + 10 * p.std(), 20_001)
            gap = p.pdf(x) * (p.logpdf(x) - q.logpdf(x))
            bits.append(np.sum(gap) * (x[1] - x[0]) / np.log(2))
        np.testing.assert_allclose(found[i], np.mean(bits), rtol=2e-3)


def test_probabilities_of_the_values_of_a_pixel_have_sum_one():
    values = (jnp.arange(256) / 127.5 - 1.0).reshape(256, 1, 1, 1)
    for mean, log_variance in ((0.1, -9.0), (-0.99, -6.0), (1.2, -2.0)):
        log_probability = learned_range._log_probability(
            values, jnp.full((1, 1, 1, 1), mean), jnp.full((1, 1, 1, 1), log_variance)
        )
        np.testing.assert_allclose(np.sum(np.exp(log_probability)), 1.0, rtol=1e-5)


def test_bound_teaches_the_variance_alone():
    of_noise, of_v = jax.grad(lambda *given: jnp.sum(bound(*given)), (0, 1))(
        NOISE + 0.3, V
    )
    np.testing.assert_array_equal(of_noise, 0.0)
    assert np.all(np.isfinite(of_v))
    assert np.all(np.abs(of_v).max(axis=(1, 2, 3)) > 0)


def test_one_image_may_be_that_of_all_predictions():
    same = Prediction(predicted(NOISE, V).clean, V)
    loss = VariationalBound(LINEAR)
    np.testing.assert_array_equal(
        loss(same, IMAGE[0], levels()),
        loss(same, jnp.broadcast_to(IMAGE[0], IMAGE.shape), levels()),
    )


def test_a_noise_level_between_steps_counts_as_the_nearer_one():
    sigmas = jnp.asarray(LINEAR.tables.sigmas, jnp.float32)
    loss, found = VariationalBound(LINEAR), predicted(NOISE + 0.3, V)
    on_steps = loss(found, IMAGE, sigmas[jnp.array([7, 8, 300, 999])])
    off = jnp.array([1.01, 0.99, 1.001, 2.0]) * sigmas[jnp.array([7, 8, 300, 999])]
    np.testing.assert_array_equal(loss(found, IMAGE, off), on_steps)
