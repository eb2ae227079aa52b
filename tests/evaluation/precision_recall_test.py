import numpy as np
import pytest

from dpdm_jax.evaluation import neighbours
from dpdm_jax.evaluation.precision_recall import of_each_class, precision_recall


def line(start, number=20):
    """Points at distance 1 on a line in the plane."""
    return np.stack([np.arange(start, start + number), np.zeros(number)], axis=1)


def test_equal_sets():
    # In a line, a ball of k = 5 reaches 3 points both ways inside (7 points with its
    # own), and fewer at the ends: 6, 6, 6, 7, ... 7, 6, 6, 6 for radii 5, 4, 3, 3, ...
    result = precision_recall(line(0), line(0))
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)
    assert result.density == pytest.approx((6 * 6 + 14 * 7) / (5 * 20))


def test_sets_far_apart():
    assert precision_recall(line(0), line(1000)) == (0, 0, 0, 0)


def test_half_of_the_samples_far_away():
    samples = np.concatenate([line(0), line(1000)])
    result = precision_recall(line(0), samples)
    assert result.precision == 0.5
    assert result.recall == 1
    assert result.coverage == 1
    assert result.density == pytest.approx((6 * 6 + 14 * 7) / (5 * 40))


def test_a_dropped_mode():
    reference = np.concatenate([line(0), line(1000)])
    result = precision_recall(reference, line(0))
    assert result.precision == 1
    assert result.recall == 0.5
    assert result.coverage == 0.5


@pytest.mark.slow
def test_against_all_distances_at_once():
    # More rows than a block has, where slices can go wrong.
    rng = np.random.default_rng(0)
    reference = rng.normal(3, 1, (1100, 6)).astype(np.float32)
    samples = rng.normal(3.5, 1.2, (2100, 6)).astype(np.float32)

    def distances(x, y):
        return np.linalg.norm(x[:, None].astype(np.float64) - y[None], axis=-1)

    across = distances(samples, reference)
    own = np.sort(distances(reference, reference), axis=1)
    own_samples = np.sort(distances(samples, samples), axis=1)
    in_ball = across <= own[:, 5]
    expected = (
        (across <= own[:, 3]).any(axis=1).mean(),
        (across <= own_samples[:, [3]]).any(axis=0).mean(),
        in_ball.sum() / (5 * len(samples)),
        in_ball.any(axis=0).mean(),
    )
    # One point on the edge of a ball may fall to either side.
    np.testing.assert_allclose(
        precision_recall(reference, samples), expected, atol=1.5 / len(reference)
    )
    found = neighbours.nearest(samples, reference)
    np.testing.assert_array_equal(found.indices, across.argmin(axis=1))
    np.testing.assert_allclose(found.distances, across.min(axis=1), rtol=1e-5)


def test_each_class_is_compared_with_itself_alone():
    reference = np.concatenate([line(0), line(1000), line(0, 5)])
    labels = np.repeat([0, 1, 2], [20, 20, 5])
    # Both classes' images are there, the second's under the first's name.
    samples = np.concatenate([line(0), line(1000), line(1000), line(0)])
    asked = np.repeat([0, 1, 2], [40, 20, 20])
    found = of_each_class(reference, labels, samples, asked)
    assert found["precision"] == {"0": 0.5, "1": 1.0}  # too few of class 2
    assert found["recall"] == {"0": 1.0, "1": 1.0}
    swapped = of_each_class(
        reference, labels, reference, np.r_[1 - labels[:40], [2] * 5]
    )
    assert swapped["precision"] == swapped["recall"] == {"0": 0.0, "1": 0.0}
