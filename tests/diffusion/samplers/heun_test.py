import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.discretizations import edm_grid
from dpdm_jax.diffusion.samplers import Heun, sample


def denoise(x, sigma):
    return 0.5 * x / sigma[:, None, None, None]


def run(sampler, noise=0.5):
    return sample(
        sampler,
        denoise,
        jnp.full((1, 1, 1, 1), 2.0),
        lambda step: jnp.full((1, 1, 1, 1), noise),
    ).item()


def by_hand(grid, gamma, s_noise, noise=0.5):
    """Algorithm 2 of Karras et al. 2022 in plain Python, gamma given for each level."""
    x = 2.0 * grid[0]
    for i, a in enumerate(grid):
        b = grid[i + 1] if i + 1 < len(grid) else 0.0
        h = a * (1 + gamma[i])
        x_hat = x + s_noise * np.sqrt(h**2 - a**2) * noise
        d = (x_hat - 0.5 * x_hat / h) / h
        x = x_hat + (b - h) * d
        if b > 0:
            d_next = (x - 0.5 * x / b) / b
            x = x_hat + (b - h) * (d + d_next) / 2
    return x


@pytest.mark.parametrize(
    ("settings", "gamma"),
    [
        ({}, [0, 0, 0]),
        ({"s_churn": 0.9}, [0.3, 0.3, 0.3]),
        ({"s_churn": 0.9, "s_noise": 1.1}, [0.3, 0.3, 0.3]),
        ({"s_churn": 0.9, "s_min": 1.0}, [0.3, 0.3, 0]),  # both ends are included
        ({"s_churn": 0.9, "s_max": 1.0}, [0, 0.3, 0.3]),
        ({"s_churn": 0.9, "s_min": 1.01, "s_max": 3.99}, [0, 0, 0]),
        ({"s_churn": 30.0}, [1, 1, 1]),  # capped at 1, not at sqrt(2) - 1
        ({"s_churn": 30.0, "churn_limit": 2**0.5 - 1}, [2**0.5 - 1] * 3),
        ({"s_churn": 30.0, "churn_limit": 20.0}, [10, 10, 10]),
    ],
)
def test_steps_by_hand(settings, gamma):
    grid = np.array([4.0, 1.0, 0.25])
    sampler = Heun(grid, **settings)
    expected = by_hand(grid, gamma, settings.get("s_noise", 1.0))
    assert run(sampler) == pytest.approx(expected, rel=1e-5)
    assert sampler.noisy_steps() == tuple(np.flatnonzero(gamma))


@pytest.mark.parametrize(
    ("s_min", "s_max", "points"),
    [(0.05, 50.0, 751), (0.025, 50.0, 793), (0.1, 50.0, 704), (0.0, np.inf, 1000)],
)
def test_published_settings_churn_at_the_official_number_of_points(
    s_min, s_max, points
):
    sampler = Heun(edm_grid(1000), s_churn=100.0, s_min=s_min, s_max=s_max)
    steps = sampler.noisy_steps()
    assert len(steps) == points
    assert steps == tuple(range(steps[0], steps[0] + points))
    # gamma = S_churn / N = 0.1 there, and nothing elsewhere.
    ratio = sampler.rows().sigma_hat / sampler.grid[:-1]
    inside = np.isin(np.arange(999), steps)
    np.testing.assert_allclose(ratio, np.where(inside, 1.1, 1.0), rtol=1e-12)


def test_last_step_is_the_denoisers_output():
    grid = np.array([4.0, 1.0])
    # x = 8, d = 7/4, Euler 2.75, d' = 1.375: x = 8 - 3 (1.75 + 1.375) / 2 = 3.3125.
    assert run(Heun(grid)) == pytest.approx(3.3125 / 2, rel=1e-6)
