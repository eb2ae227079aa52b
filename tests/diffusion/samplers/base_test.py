import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.discretizations import edm_grid
from dpdm_jax.diffusion.samplers import DDIM, Ancestral, DDIMEta, Heun, sample

START = jax.random.normal(jax.random.key(0), (2, 3, 3, 1))


def denoise(x, sigma):
    return jnp.tanh(x / (1.0 + sigma[:, None, None, None]))


def draw_noise(step):
    key = jax.random.fold_in(jax.random.key(1), step)
    return jax.random.normal(key, START.shape)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 10])
@pytest.mark.parametrize(
    ("make", "calls"),
    [
        (lambda grid: DDIM(grid), lambda n: n),
        (lambda grid: DDIM(grid, stochastic=True), lambda n: n),
        (lambda grid: Ancestral(grid), lambda n: n),
        (lambda grid: DDIMEta(grid, eta=0.5, end=0.001), lambda n: n),
        (lambda grid: Heun(grid), lambda n: 2 * n - 1),
        (lambda grid: Heun(grid, s_churn=3.0), lambda n: 2 * n - 1),
    ],
)
def test_number_of_network_calls(make, calls, n):
    levels = []

    def spy(x, sigma):
        assert sigma.shape == x.shape[:1]
        levels.append(float(sigma[0]))
        return denoise(x, sigma)

    with jax.disable_jit():  # the scan becomes a Python loop
        sample(make(edm_grid(n)), spy, START, draw_noise)
    assert len(levels) == calls(n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "noisy"),
    [
        (DDIM(edm_grid(5)), ()),
        (DDIM(edm_grid(5), stochastic=True), (0, 1, 2, 3)),
        (Ancestral(edm_grid(5, 0.5)), (0, 1, 2, 3)),
        (DDIMEta(edm_grid(5)), ()),
        (DDIMEta(edm_grid(5, 0.5), eta=0.5), (0, 1, 2, 3)),
        (DDIMEta(edm_grid(5, 0.5), eta=0.5, end=0.1), (0, 1, 2, 3, 4)),
        (Heun(edm_grid(5)), ()),
        (Heun(edm_grid(5), s_churn=1.0), (0, 1, 2, 3, 4)),
        # The grid is 80, 17.53, 2.516, 0.1698, 0.002.
        (Heun(edm_grid(5), s_churn=1.0, s_min=0.1, s_max=20.0), (1, 2, 3)),
        (Heun(edm_grid(5), s_churn=1.0, s_max=0.1), (4,)),
    ],
)
def test_only_the_announced_steps_use_noise(sampler, noisy):
    assert sampler.noisy_steps() == noisy

    def with_huge(steps):
        def draw(step):
            return jnp.where(
                jnp.isin(step, jnp.array(steps, int)), 1e6, draw_noise(step)
            )

        return sample(sampler, denoise, START, draw)

    usual = sample(sampler, denoise, START, draw_noise)
    quiet = [step for step in range(5) if step not in noisy]
    np.testing.assert_allclose(with_huge(quiet), usual, atol=1e-4)
    for step in noisy:
        assert not np.allclose(with_huge([step]), usual, atol=1e-2)


@pytest.mark.parametrize("make", [DDIM, DDIMEta, Heun])
def test_deterministic_samplers_need_no_noise(make):
    def no_noise(step):
        raise AssertionError("a deterministic sampler drew noise")

    images = sample(make(edm_grid(4)), denoise, START, no_noise)
    assert images.shape == START.shape
    assert images.dtype == START.dtype


def test_sampling_starts_at_the_largest_noise_level():
    seen = []

    def spy(x, sigma):
        seen.append((x, sigma))
        return denoise(x, sigma)

    with jax.disable_jit():
        sample(DDIM(edm_grid(3, sigma_max=50.0)), spy, START, draw_noise)
    np.testing.assert_allclose(seen[0][0], 50.0 * START, rtol=1e-6)
    np.testing.assert_array_equal(seen[0][1], [50.0, 50.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(edm_grid(6), stochastic=True),
        Heun(edm_grid(6), s_churn=2.0),
        Ancestral(edm_grid(6), clip_denoised=True),
        DDIMEta(edm_grid(6), eta=1.0),
    ],
)
def test_image_does_not_depend_on_the_rest_of_its_batch(sampler):
    images = sample(sampler, denoise, START, draw_noise)
    alone = sample(sampler, denoise, START[1:], lambda step: draw_noise(step)[1:])
    np.testing.assert_allclose(alone, images[1:], atol=1e-4)
