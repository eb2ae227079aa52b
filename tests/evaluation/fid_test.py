import numpy as np
import pytest

from dpdm_jax.evaluation import fid
from dpdm_jax.evaluation.moments import Moments, moments_of


def gaussian(seed, number, size, scale=1.0, shift=0.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(size, size)) / np.sqrt(size)
    return (scale * rng.normal(size=(number, size)) @ mixing + shift).astype(np.float32)


def moments(features, batch=64):
    batches = (features[i : i + batch] for i in range(0, len(features), batch))
    return moments_of(batches, features.shape[1])


def test_moments_are_those_of_all_vectors_at_once():
    features = gaussian(0, 333, 5, shift=1e3)
    whole = moments(features, batch=50)
    parts = moments(features[:100]).merged(moments(features[100:]))
    for result in (whole, parts):
        assert result.count == 333
        exact = features.astype(np.float64)
        np.testing.assert_allclose(result.mean, exact.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(
            result.covariance, np.cov(exact, rowvar=False), rtol=1e-10, atol=1e-10
        )


def test_moments_with_nothing_in_them_merge():
    features = gaussian(0, 10, 3)
    both = Moments(3).merged(moments(features))
    np.testing.assert_allclose(both.covariance, moments(features).covariance)


@pytest.mark.parametrize("number", [500, 20])  # full rank, and fewer than dimensions
def test_distance_to_oneself_is_zero(number):
    a = moments(gaussian(0, number, 40))
    assert abs(fid.frechet_distance(a, a)) < 1e-6 * np.trace(a.covariance)


def test_distance_in_closed_form():
    # Diagonal covariances: sum of (m1 - m2)^2 + (s1 - s2)^2.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    x = np.linalg.qr(x - x.mean(axis=0))[0] * np.sqrt(199)
    x -= x.mean(axis=0)
    a, b = moments(x * [1, 2, 3] + 5), moments(x * [2, 2, 0] + [5, 6, 5])
    assert fid.frechet_distance(a, b) == pytest.approx(1 + 1 + 9, rel=1e-9)
    assert fid.frechet_distance(b, a) == pytest.approx(1 + 1 + 9, rel=1e-9)


def test_constant_features():
    a, b = moments(np.zeros((5, 3))), moments(np.full((5, 3), 2.0))
    assert fid.frechet_distance(a, b) == pytest.approx(12)


@pytest.mark.slow
@pytest.mark.parametrize("number", [300, 30])
def test_distance_is_that_of_pytorch_fid(pytorch_fid, number):
    size = 64
    a, b = gaussian(0, number, size), gaussian(1, number, size, 1.5, 0.2)
    expected = pytorch_fid.fid_score.calculate_frechet_distance(
        *(f(x) for x in (a, b) for f in (lambda x: x.mean(axis=0), _covariance))
    )
    ours = fid.frechet_distance(moments(a), moments(b))
    assert ours == pytest.approx(expected, rel=1e-3)


def _covariance(x):
    return np.cov(x.astype(np.float64), rowvar=False)
