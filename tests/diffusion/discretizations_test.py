import numpy as np
import pytest

from dpdm_jax.diffusion.discretizations import (
    cosine_grid,
    edm_grid,
    ldm_grid,
    log_uniform_grid,
    step_grid,
)
from dpdm_jax.diffusion.schedules import cosine, linear, sqrt_linear
from dpdm_jax.errors import InputError

ALL = [edm_grid, log_uniform_grid, cosine_grid]


def test_edm_grid_of_the_official_code():
    grid = edm_grid(50, sigma_min=0.002, sigma_max=80.0, rho=7.0)
    np.testing.assert_allclose(
        grid[:4], [80.0, 71.5010, 63.7880, 56.7995], rtol=0, atol=5e-5
    )
    np.testing.assert_allclose(
        grid[-4:], [0.0079070, 0.0051493, 0.0032608, 0.002], rtol=0, atol=5e-8
    )


def test_edm_grid_defaults_to_the_published_range():
    np.testing.assert_array_equal(edm_grid(50), edm_grid(50, 0.002, 80.0, 7.0))


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("num_steps", [2, 3, 1000])
def test_grids_fall_from_the_largest_to_the_smallest_level(make, num_steps):
    grid = make(num_steps, 0.03, 70.0)
    assert grid.shape == (num_steps,)
    assert grid[0] == 70.0
    assert grid[-1] == 0.03
    assert np.all(np.diff(grid) < 0)


@pytest.mark.parametrize(
    ("make", "transform"),
    [
        (edm_grid, lambda s: s ** (1 / 7)),
        (lambda *ends: edm_grid(*ends, rho=3.0), np.cbrt),
        (lambda *ends: edm_grid(*ends, rho=1.0), lambda s: s),
        (log_uniform_grid, np.log),
        (cosine_grid, np.arctan),
    ],
)
def test_grids_are_uniform_in_their_variable(make, transform):
    steps = np.diff(transform(make(20, 0.002, 80.0)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)


@pytest.mark.parametrize("make", [linear, cosine])
@pytest.mark.parametrize(
    ("respacing", "steps"),
    [
        ("", range(999, -1, -1)),
        ("ddim50", range(980, -1, -20)),
        ("4", [999, 666, 333, 0]),
    ],
)
def test_step_grid_visits_the_steps_kept(make, respacing, steps):
    schedule = make()
    grid = step_grid(schedule, respacing)
    np.testing.assert_array_equal(grid, schedule.sigmas[list(steps)])


def test_grid_of_latent_diffusion_ends_at_step_1():
    schedule = sqrt_linear()
    grid = ldm_grid(schedule, 10)
    np.testing.assert_array_equal(grid, schedule.sigmas[np.arange(901, 0, -100)])
    assert len(ldm_grid(schedule, 30)) == 31


def test_bad_steps_are_refused():
    with pytest.raises(InputError, match="respacing is 'ddim999'; allowed"):
        step_grid(linear(), "ddim999")
    with pytest.raises(InputError, match="DDIM steps is 300; allowed"):
        ldm_grid(linear(), 300)
