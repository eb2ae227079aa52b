import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.denoiser import BoundDenoiser, Prediction
from dpdm_jax.diffusion.discretizations import step_grid
from dpdm_jax.diffusion.samplers import Ancestral, sample
from dpdm_jax.diffusion.schedules import cosine, linear

NOISE = np.linspace(-1.0, 1.5, 6)


def predict(x, sigma):
    """Something of two signs that clipping changes, and v from -0.5 to 0.9."""
    x = x / (1.0 + sigma[:, None, None, None])
    return Prediction(3.0 * jnp.sin(x), 0.2 + 0.7 * jnp.cos(x))


denoise = BoundDenoiser(predict)


def by_hand(schedule, variance, clip, start):
    """Algorithm 2 of Ho et al. 2020 in its own coordinates, in float64."""
    shares = {"fixed_large": 1.0, "fixed_small": 0.0}
    x = start
    for i, t in enumerate(reversed(range(len(schedule.betas)))):
        seen = x / np.sqrt(schedule.alphas_cumprod[t]) / (1.0 + schedule.sigmas[t])
        clean = 3.0 * np.sin(seen)
        share = shares.get(variance, (1.2 + 0.7 * np.cos(seen)) / 2.0)
        log_variance = share * np.log(schedule.betas[t])
        log_variance += (1.0 - share) * schedule.posterior_log_variance_clipped[t]
        if clip:
            clean = np.clip(clean, -1.0, 1.0)
        mean = schedule.posterior_mean_coef1[t] * clean
        mean = mean + schedule.posterior_mean_coef2[t] * x
        x = mean + (np.exp(0.5 * log_variance) * NOISE[i] if t > 0 else 0.0)
    return x


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small", "learned"])
@pytest.mark.parametrize("make", [linear, cosine])
def test_steps_are_those_of_ddpm(make, variance, clip):
    schedule = make()
    sampler = Ancestral(step_grid(schedule, "6"), variance, clip)
    image = sample(
        sampler,
        denoise,
        jnp.full((1, 1, 1, 1), 0.7),
        lambda step: jnp.asarray(NOISE, jnp.float32)[step].reshape(1, 1, 1, 1),
    )
    expected = by_hand(schedule.respaced("6"), variance, clip, 0.7)
    np.testing.assert_allclose(image.item(), expected, atol=2e-4)


def test_large_variance_is_larger():
    grid = step_grid(linear(), "50")
    large, small = (
        Ancestral(grid, variance).rows().diffusion
        for variance in ("fixed_large", "fixed_small")
    )
    assert np.all(large > small)
    assert np.all(small > 0)
