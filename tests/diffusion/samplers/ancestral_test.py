import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.discretizations import step_grid
from dpdm_jax.diffusion.samplers import Ancestral, sample
from dpdm_jax.diffusion.schedules import cosine, linear

NOISE = np.linspace(-1.0, 1.5, 6)


def denoise(x, sigma):
    """Something of two signs that clipping changes."""
    return 3.0 * jnp.sin(x / (1.0 + sigma[:, None, None, None]))


def by_hand(schedule, variance, clip, start):
    """Algorithm 2 of Ho et al. 2020 in its own coordinates, in float64."""
    log_variance = {
        "fixed_large": np.log(schedule.betas),
        "fixed_small": schedule.posterior_log_variance_clipped,
    }[variance]
    x = start
    for i, t in enumerate(reversed(range(len(schedule.betas)))):
        clean = 3.0 * np.sin(
            x / np.sqrt(schedule.alphas_cumprod[t]) / (1.0 + schedule.sigmas[t])
        )
        if clip:
            clean = np.clip(clean, -1.0, 1.0)
        mean = schedule.posterior_mean_coef1[t] * clean
        mean = mean + schedule.posterior_mean_coef2[t] * x
        x = mean + (np.exp(0.5 * log_variance[t]) * NOISE[i] if t > 0 else 0.0)
    return x


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
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
