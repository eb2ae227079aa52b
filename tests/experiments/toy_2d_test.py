"""The measures of the 2-D experiment, on functions whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.toy_2d import __main__ as toy_2d


def test_jacobian_norms_of_a_linear_map():
    matrix = jnp.asarray([[1.0, 2.0], [3.0, -4.0]])
    norms = toy_2d.jacobian_norms(lambda x: matrix @ x, jnp.zeros((3, 2)))
    np.testing.assert_allclose(norms, np.sqrt(30.0), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.05, 1.0])
def test_the_perfect_denoiser_is_the_posterior_mean(sigma):
    """Against the mean of many clean points, weighted by their likelihood."""
    points = np.asarray(toy_2d.draw_data(jax.random.key(0), 400_000), np.float64)
    noisy = np.array([0.3, -0.6])
    weights = np.exp(-np.sum((points - noisy) ** 2, axis=1) / (2 * sigma**2))
    expected = weights @ points / weights.sum()
    actual = toy_2d.perfect_denoise(jnp.asarray(noisy), jnp.asarray(sigma))
    np.testing.assert_allclose(actual, expected, atol=0.02)


def test_quality_counts_gaussians_and_strays():
    data = toy_2d.draw_data(jax.random.key(1), 5_000)
    good = toy_2d.quality(data)
    assert good["gaussians_found"] == 25
    assert good["points_close"] > 0.99
    one = toy_2d.quality(jnp.where(jnp.arange(5_000)[:, None] < 2_500, data[0], 9.0))
    assert one == {"gaussians_found": 1, "points_close": 0.5}


@pytest.mark.slow
def test_both_models_are_fitted_and_measured():
    result = toy_2d.measure(0, num_steps=200)
    norms = [*result["denoiser"], result["sampler"], result["generator"]]
    assert np.all(np.isfinite(norms))
    # At the smallest noise a denoiser leaves its input as it is, whose norm is root 2.
    assert result["denoiser"][0] == pytest.approx(2**0.5, rel=0.02)
    assert result["denoiser"][-1] < 0.1
