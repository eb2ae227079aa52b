import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.discretizations import edm_grid, ldm_grid, step_grid
from dpdm_jax.diffusion.samplers import DDIM, Ancestral, DDIMEta, sample
from dpdm_jax.diffusion.schedules import ddim_steps, linear, sqrt_linear

START = jax.random.normal(jax.random.key(0), (2, 3, 3, 1))
NOISE = np.linspace(-1.0, 1.5, 10)


def denoise(x, sigma):
    """Something of two signs that clipping changes."""
    return 3.0 * jnp.sin(x / (1.0 + sigma[:, None, None, None]))


def draw_noise(step):
    return jax.random.normal(jax.random.fold_in(jax.random.key(1), step), START.shape)


def no_noise(step):
    raise AssertionError("a deterministic sampler drew noise")


@pytest.mark.parametrize("grid", [edm_grid(9), step_grid(linear(), "ddim50")])
def test_without_noise_it_is_ddim(grid):
    sampler, other = DDIMEta(grid), DDIM(grid)
    # DDPM starts from the noise and what is left of an image.
    start = START * other.start_scale / sampler.start_scale
    np.testing.assert_allclose(
        sample(sampler, denoise, start, no_noise),
        sample(other, denoise, START, no_noise),
        atol=1e-4,
    )


@pytest.mark.parametrize("clip", [False, True])
def test_with_all_noise_it_is_ancestral(clip):
    grid = step_grid(linear(), "50")
    np.testing.assert_allclose(
        sample(DDIMEta(grid, 1.0, clip), denoise, START, draw_noise),
        sample(Ancestral(grid, "fixed_small", clip), denoise, START, draw_noise),
        atol=1e-4,
    )


def test_clipped_predictions_stay_in_range():
    grid = step_grid(linear(), "10")
    images = sample(DDIMEta(grid, clip_denoised=True), denoise, START, no_noise)
    assert np.abs(images).max() == 1.0
    images = sample(DDIMEta(grid), denoise, START, no_noise)
    assert np.abs(images).max() > 1.5


def ldm_by_hand(schedule, num, eta, start):
    """Latent diffusion's DDIM in DDPM's coordinates, in float64."""
    tables = ddim_steps(schedule, num)
    sigmas = tables.sigmas(eta)
    x = start
    for i, at in enumerate(reversed(range(len(sigmas)))):
        abar, before, s = tables.alphas[at], tables.alphas_prev[at], sigmas[at]
        clean = 3.0 * np.sin(x / np.sqrt(abar) / (1.0 + np.sqrt((1 - abar) / abar)))
        noise = (x - np.sqrt(abar) * clean) / np.sqrt(1 - abar)
        x = np.sqrt(before) * clean + np.sqrt(1 - before - s**2) * noise
        x = x + s * NOISE[i]
    return x


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_are_those_of_latent_diffusion(eta):
    schedule = sqrt_linear()
    sampler = DDIMEta(ldm_grid(schedule, 10), eta, end=schedule.sigmas[0])
    assert sampler.noisy_steps() == (tuple(range(10)) if eta else ())
    image = sample(
        sampler,
        denoise,
        jnp.full((1, 1, 1, 1), 0.7),
        lambda step: jnp.asarray(NOISE, jnp.float32)[step].reshape(1, 1, 1, 1),
    )
    expected = ldm_by_hand(schedule, 10, eta, 0.7)
    np.testing.assert_allclose(image.item(), expected, atol=1e-4)
