import numpy as np
import pytest
from scipy import optimize

from dpdm_jax.evaluation import sliced

RNG = np.random.default_rng(0)


def test_shifted_sets_are_a_shift_apart():
    """Along u the squared distance is (u . shift)^2, on average |shift|^2 / d."""
    features = RNG.normal(size=(50, 6)).astype(np.float32)
    shift = np.array([3, 0, 0, 4, 0, 0], np.float32)
    found = sliced.sliced_distance(features, features + shift, num_directions=4000)
    assert found.distance == pytest.approx(5 / 6**0.5, abs=4 * found.standard_error)
    assert 0 < found.standard_error < 0.05


@pytest.mark.parametrize(("n", "m"), [(7, 7), (4, 9), (6, 4), (1, 5)])
def test_sets_of_any_size_against_transport(n, m):
    """Copies of each vector make the sets equally large; then it is an assignment."""
    a, b = RNG.normal(size=(n, 1)), RNG.normal(size=(m, 1)) + 1
    costs = (np.repeat(a, m, axis=0) - np.repeat(b, n, axis=0).T) ** 2
    expected = costs[optimize.linear_sum_assignment(costs)].mean()
    np.testing.assert_allclose(sliced._squares(a, b), [expected])


def test_equal_sets_in_another_order_are_not_apart():
    features = RNG.normal(size=(30, 4)).astype(np.float32)
    found = sliced.sliced_distance(features, RNG.permutation(features))
    assert found.distance < 1e-5


def test_the_error_is_that_of_the_directions():
    a = RNG.normal(size=(200, 8)).astype(np.float32)
    b = (1.5 * RNG.normal(size=(200, 8)) + np.arange(8)).astype(np.float32)
    found = [
        sliced.sliced_distance(a, b, seed=seed, num_directions=64) for seed in range(60)
    ]
    spread = np.std([each.distance for each in found], ddof=1)
    stated = np.mean([each.standard_error for each in found])
    assert spread == pytest.approx(stated, rel=0.35)
    assert sliced.sliced_distance(a, b, seed=1) == sliced.sliced_distance(a, b, seed=1)
