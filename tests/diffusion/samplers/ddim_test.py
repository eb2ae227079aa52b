import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.diffusion.samplers import DDIM, sample

GRID = np.array([4.0, 1.0])


def denoise(x, sigma):
    return 0.5 * x / sigma[:, None, None, None]


@pytest.mark.parametrize(
    ("stochastic", "expected"),
    [
        # x = 8, D = 1, d = 7/4; x + (1 - 4) d = 2.75; D = 1.375.
        (False, 1.375),
        # x + 2 (1 - 4) d + sqrt(2 * 3 * 4) * 0.5 = -2.5 + 2.4495; D is half of it.
        (True, 0.5 * (-2.5 + 0.5 * np.sqrt(24.0))),
    ],
)
def test_one_step_by_hand(stochastic, expected):
    image = sample(
        DDIM(GRID, stochastic),
        denoise,
        jnp.full((1, 1, 1, 1), 2.0),
        lambda step: jnp.full((1, 1, 1, 1), 0.5),
    )
    np.testing.assert_allclose(image, expected, rtol=1e-5)


def test_levels_of_the_network_calls_are_the_grid():
    rows = DDIM(np.array([9.0, 3.0, 1.0, 0.5])).rows()
    np.testing.assert_array_equal(rows.sigma, [9.0, 3.0, 1.0])
