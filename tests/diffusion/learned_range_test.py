import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpdm_jax.diffusion import learned_range
from dpdm_jax.diffusion.schedules import cosine, linear

T = jnp.array([0, 1, 400, 999])
IMAGE, NOISE, V = jax.random.uniform(jax.random.key(0), (3, 4, 2, 2, 1), minval=-1.0)


def noisy(schedule):
    abar = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[T][:, None, None, None]
    return jnp.sqrt(abar) * IMAGE + jnp.sqrt(1.0 - abar) * NOISE


def output(noise, v):
    return jnp.concatenate([noise, jnp.broadcast_to(v, noise.shape)], axis=-1)


@pytest.mark.parametrize("make", [linear, cosine])
def test_variance_lies_between_the_smallest_and_the_largest(make):
    schedule = make()
    for v, expected in (
        (-1.0, schedule.posterior_log_variance_clipped),
        (1.0, np.log(schedule.betas)),
    ):
        step = learned_range.reverse_step(
            schedule, output(NOISE, v), noisy(schedule), T, clip_denoised=False
        )
        np.testing.assert_allclose(
            step.log_variance[:, 0, 0, 0], expected[T], rtol=1e-6
        )


@pytest.mark.parametrize("clip", [False, True])
def test_right_noise_gives_the_image_and_the_posteriors_mean(clip):
    schedule = linear()
    step = learned_range.reverse_step(
        schedule, output(NOISE, V), noisy(schedule), T, clip_denoised=clip
    )
    np.testing.assert_allclose(step.clean, IMAGE, atol=2e-4)
    one, two = (
        np.asarray(table)[T][:, None, None, None]
        for table in (schedule.posterior_mean_coef1, schedule.posterior_mean_coef2)
    )
    expected = one * IMAGE + two * noisy(schedule)
    np.testing.assert_allclose(step.mean, expected, atol=1e-5)


def test_clean_images_are_clipped_before_the_mean():
    wrong = output(NOISE + 5.0, V)
    free, clipped = (
        learned_range.reverse_step(
            linear(), wrong, noisy(linear()), T, clip_denoised=clip
        )
        for clip in (False, True)
    )
    assert np.abs(free.clean).max() > 2.0
    assert np.abs(clipped.clean).max() == 1.0
    assert np.abs(clipped.mean[-2:] - free.mean[-2:]).max() > 1e-3


def test_bound_is_zero_for_the_posterior_itself():
    found = learned_range.losses(linear(), output(NOISE, -1.0), IMAGE, NOISE, T)
    np.testing.assert_allclose(found.mse, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.vb[1:], 0.0, atol=1e-5)
    assert found.vb[0] > 1.0  # bits that even the best decoder needs
    np.testing.assert_allclose(found.total, found.mse + found.vb)


def test_bound_is_the_divergence_of_two_gaussians():
    """By numerical integration, from what the reverse step says."""
    schedule, guess = linear(), NOISE + 0.3
    found = learned_range.losses(schedule, output(guess, V), IMAGE, NOISE, T)
    step, right = (
        learned_range.reverse_step(
            schedule, output(noise, v), noisy(schedule), T, clip_denoised=False
        )
        for noise, v in ((guess, V), (NOISE, -1.0))
    )
    for i in (1, 2, 3):
        bits = []
        for j in np.ndindex(2, 2, 1):
            p, q = (
                stats.norm(float(s.mean[i][j]), float(np.exp(s.log_variance[i][j] / 2)))
                for s in (right, step)
            )
            x = np.linspace(p.mean() - 10 * p.std(), p.mean() + 10 * p.std(), 20_001)
            gap = p.pdf(x) * (p.logpdf(x) - q.logpdf(x))
            bits.append(np.sum(gap) * (x[1] - x[0]) / np.log(2))
        np.testing.assert_allclose(found.vb[i], np.mean(bits), rtol=2e-3)


def test_probabilities_of_the_values_of_a_pixel_have_sum_one():
    values = (jnp.arange(256) / 127.5 - 1.0).reshape(256, 1, 1, 1)
    for mean, log_variance in ((0.1, -9.0), (-0.99, -6.0), (1.2, -2.0)):
        log_probability = learned_range._log_probability(
            values, jnp.full((1, 1, 1, 1), mean), jnp.full((1, 1, 1, 1), log_variance)
        )
        np.testing.assert_allclose(np.sum(np.exp(log_probability)), 1.0, rtol=1e-5)


def test_bound_teaches_the_variance_alone():
    def vb(noise, v):
        return jnp.sum(
            learned_range.losses(linear(), output(noise, v), IMAGE, NOISE, T).vb
        )

    of_noise, of_v = jax.grad(vb, (0, 1))(NOISE + 0.3, V)
    np.testing.assert_array_equal(of_noise, 0.0)
    assert np.all(np.isfinite(of_v))
    assert np.all(np.abs(of_v).max(axis=(1, 2, 3)) > 0)
