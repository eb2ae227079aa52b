import numpy as np
import pytest

from dpdm_jax.evaluation import kid


def test_estimate_by_hand():
    a, b = np.array([[1.0], [2.0]]), np.array([[0.0], [3.0]])

    def kernel(x, y):
        return (x * y + 1) ** 3

    across = np.mean([kernel(x, y) for x in (1, 2) for y in (0, 3)])
    assert kid.squared_mmd(a, b) == pytest.approx(
        kernel(1, 2) + kernel(0, 3) - 2 * across
    )


def test_two_samples_of_one_distribution_average_to_zero():
    # 400 independent estimates: a mean further than 4.5 standard errors from 0 has a
    # probability below 1e-5. With the diagonals left in, it is that of them all.
    rng = np.random.default_rng(0)
    unbiased, biased = [], []
    for a, b in rng.normal(size=(400, 2, 40, 8)):
        unbiased.append(kid.squared_mmd(a, b))
        within = [np.mean((x @ x.T / 8 + 1) ** 3) for x in (a, b)]
        biased.append(sum(within) - 2 * np.mean((a @ b.T / 8 + 1) ** 3))
    error = np.std(unbiased) / np.sqrt(400)
    assert abs(np.mean(unbiased)) < 4.5 * error
    assert np.mean(biased) > 4.5 * error


def test_mean_does_not_depend_on_the_subset_size():
    # The same expectation; 5 standard errors of the smaller subsets' mean.
    rng = np.random.default_rng(1)
    a = rng.normal(size=(3000, 8)).astype(np.float32)
    b = rng.normal(0.3, 1, (3000, 8)).astype(np.float32)
    small = kid.kernel_distance(a, b, num_subsets=400, subset_size=50)
    large = kid.kernel_distance(a, b, num_subsets=20, subset_size=1000)
    assert (small.subset_size, large.subset_size) == (50, 1000)
    assert abs(small.mean - large.mean) < 5 * small.std / np.sqrt(400)
    assert large.mean > 10 * small.std / np.sqrt(400)


def test_subsets_are_no_larger_than_half_a_set():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    result = kid.kernel_distance(x, x[:20], num_subsets=3)
    assert result.subset_size == 10
    assert result == kid.kernel_distance(x, x[:20], num_subsets=3)
    assert result != kid.kernel_distance(x, x[:20], num_subsets=3, seed=1)
