"""Queries: what one example changes, what they measure, and what noise they get."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import exact, in_float64

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import class_moments

CLASSES, SIZE, CLIP = 3, 5, 2.0
# Of float64, in which sums are compared.
ROUNDING = 1e-12
# Half of this is what features are rounded by before they are multiplied, in units of
# the clip norm.
FEATURE_STEP = 2.0**-14
KEY = jax.random.key(0)


def examples(number, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.standard_normal((number, SIZE)), rng.integers(0, CLASSES, number)


def queries(features, labels, mean):
    batches = [(features, labels)]
    return in_float64(
        (
            class_moments.sum_first(batches, CLASSES, CLIP),
            class_moments.sum_deviations(batches, mean, CLIP),
            class_moments.sum_products(batches, CLASSES, CLIP),
        )
    )


EXTRA = [
    np.zeros(SIZE),
    np.full(SIZE, 0.1),
    np.full(SIZE, 1e30),
    np.array([1e300, -1e300, 0, 0, 0]),
    np.array([math.nan, 0, 0, 0, 0]),
    np.array([math.inf, 0, 0, 0, 0]),
    np.array([-math.inf, math.nan, 1, 1, 1]),
    np.array([0, 0, -CLIP, 0, 0]),
]


@pytest.mark.parametrize("extra", EXTRA, ids=str)
@pytest.mark.parametrize("scale", [0.1, 1.0, 100.0])
def test_an_example_changes_its_class_alone_by_at_most_1(extra, scale):
    features, labels = examples(40, scale=scale)
    mean = np.random.default_rng(1).standard_normal((CLASSES, SIZE))
    for label in range(CLASSES):
        more = np.vstack([features, extra]), np.append(labels, label)
        for with_it, without in zip(
            queries(*more, mean), queries(features, labels, mean), strict=True
        ):
            change = with_it - without
            assert np.isfinite(with_it).all()
            assert np.linalg.norm(change) <= 1 + ROUNDING
            assert not np.delete(change, label, axis=0).any()


def test_the_bound_of_1_is_reached():
    """Else the noise would be larger than the guarantee asks for."""
    far = np.array([[0, 30.0, 0, 40.0, 0]]), np.array([1])
    first, deviations, _ = queries(*far, np.zeros((CLASSES, SIZE)))
    for total in (first, deviations):
        np.testing.assert_allclose(np.linalg.norm(total), 1, rtol=1e-6)
    # Products with themselves are not asked for: what d equal features leave is most.
    size = 400
    level = [(np.full((1, size), 50.0), np.array([1]))]
    products = in_float64(class_moments.sum_products(level, CLASSES, CLIP))
    np.testing.assert_allclose(np.linalg.norm(products) ** 2, 1 - 1 / size, rtol=1e-3)


def test_products_are_those_of_the_clipped_features():
    features, labels = examples(30, scale=2.0)
    found = class_moments.sum_products([(features, labels)], CLASSES, CLIP)
    found = in_float64(found)
    norms = np.linalg.norm(features, axis=1)
    assert (norms > CLIP).any()
    assert (norms < CLIP).any()
    expected = np.zeros((CLASSES, SIZE, SIZE))
    for x, norm, label in zip(features, norms, labels, strict=True):
        expected[label] += np.outer(x, x) / max(norm, CLIP) ** 2
    upper = np.triu_indices(SIZE, 1)
    np.testing.assert_allclose(
        found, math.sqrt(2) * expected[:, *upper], atol=len(features) * FEATURE_STEP
    )
    # A sum of roundings, most of which cancel.
    error = found - math.sqrt(2) * expected[:, *upper]
    assert error.std() < 3 * FEATURE_STEP


def test_each_example_counts_once_however_it_is_batched():
    features, labels = examples(50)
    mean = np.zeros((CLASSES, SIZE))
    whole = queries(features, labels, mean)
    parts = [(features[i : i + 7], labels[i : i + 7]) for i in range(0, 50, 7)]
    # To the last bit, in whatever order they are added.
    third = in_float64(class_moments.sum_products(parts[::-1], CLASSES, CLIP))
    np.testing.assert_array_equal(third, whole[2])
    first = in_float64(class_moments.sum_first(parts[::-1], CLASSES, CLIP))
    np.testing.assert_array_equal(first, whole[0])
    second = in_float64(class_moments.sum_deviations(parts[::-1], mean, CLIP))
    np.testing.assert_array_equal(second, whole[1])
    counts = np.bincount(labels, minlength=CLASSES)
    np.testing.assert_allclose(math.sqrt(2) * first[:, -1], counts, rtol=1e-5)


def measure(features, labels, num_classes=CLASSES, weights=None, key=KEY, **changes):
    settings = {"l2_clip_norm": 20.0, "noise_multiplier": 0.01} | changes
    covariances = None
    if weights is not None:
        norm = settings["l2_clip_norm"] * np.sqrt(np.mean(weights**2))
        covariances = class_moments.Covariances(weights, norm)
    return class_moments.noised_moments(
        lambda: [(features, labels)],
        num_classes,
        np.ones(features.shape[1]),
        covariances,
        noise_key=key,
        **settings,
    )


@pytest.mark.slow
def test_moments_of_gaussian_classes_are_found():
    rng = np.random.default_rng(0)
    mean = np.array([[0, 1, -1, 0.5, 2], [1, 1, 1, 1, 1], [-2, 0, 0, 0, 0.3]])
    std = np.array([[1, 0.5, 2, 1, 1], [0.3, 0.3, 1, 1, 0.7], [1, 1, 1.5, 0.4, 1]])
    labels = rng.choice(CLASSES, 60_000, p=[0.2, 0.5, 0.3])
    features = mean[labels] + std[labels] * rng.standard_normal((60_000, SIZE))
    found = measure(features, labels)
    # Means of at least 11,000 draws of standard deviation 2 at most: 4 sigma.
    np.testing.assert_allclose(found.mean[:CLASSES], mean, atol=0.08)
    # Beside that, the pull towards the classes' average, small without much noise.
    np.testing.assert_allclose(found.std[:CLASSES], std, rtol=0.03)
    np.testing.assert_allclose(found.mean[-1], features.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(found.std[-1], features.std(axis=0), rtol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [np.ones(SIZE), np.arange(1.0, 6.0)], ids=str)
def test_covariances_of_classes_are_found(weights):
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((CLASSES, SIZE, SIZE))
    labels = rng.choice(CLASSES, 60_000, p=[0.2, 0.5, 0.3])
    white = rng.standard_normal((60_000, SIZE))
    features = np.einsum("nij,nj->ni", mixing[labels], white) + labels[:, None]
    found = measure(features, labels, weights=weights, l2_clip_norm=60.0)
    off = ~np.eye(SIZE, dtype=bool)
    for label in range(CLASSES):
        exact = np.cov(features[labels == label].T)
        # What is below the noise's edge of 0.03 at most is left out.
        np.testing.assert_allclose(found.covariance[label][off], exact[off], atol=0.08)
        np.testing.assert_allclose(
            np.diag(found.covariance[label]), np.diag(exact), rtol=0.06
        )
    all_of_them = np.cov(features.T)
    np.testing.assert_allclose(found.covariance[-1][off], all_of_them[off], atol=0.08)


@pytest.mark.slow
def test_covariances_of_noise_are_taken_for_none():
    """Random symmetric matrices keep within the edge but for finite-size effects."""
    rng = np.random.default_rng(0)
    size, noise = 60, 10.0
    features = 0.5 * rng.standard_normal((2000, size))
    features[:, :2] += 3 * rng.standard_normal((2000, 1))
    found = measure(
        features,
        np.zeros(2000, int),
        num_classes=0,
        weights=np.ones(size),
        noise_multiplier=noise,
        l2_clip_norm=5.0,
    )
    signal = found.covariance[0] - np.diag(found.std[0].astype(float) ** 2)
    values, vectors = np.linalg.eigh(signal)
    assert (np.abs(values) > 1e-4).sum() <= 4
    np.testing.assert_allclose(np.abs(vectors[:2, -1]), 0.5**0.5, atol=0.1)


@pytest.mark.slow
def test_unlabelled_data_are_one_class():
    features, _ = examples(20_000)
    found = measure(features, np.zeros(20_000, int), num_classes=0)
    assert found.mean.shape == found.std.shape == (1, SIZE)
    np.testing.assert_allclose(found.mean[0], features.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(found.std[0], features.std(axis=0), rtol=0.03)


@pytest.mark.slow
def test_noise_is_what_is_accounted_for():
    """Of sums of nothing only the noise is left, seen through the means' scale."""
    noise, size = 50.0, 20_000
    nothing = np.zeros((0, size)), np.zeros(0, int)
    found = measure(*nothing, num_classes=0, noise_multiplier=noise, l2_clip_norm=1e-3)
    # Such a class counts sqrt(2) sigma at least, or what the noise on its count says.
    count = class_moments.gaussian_noise(noise, KEY)
    zeros = exact(jnp.zeros((1, size + 1)))
    drawn = np.asarray(count.update(zeros, count.init(None))[0])[0]
    counted = max(math.sqrt(2) * drawn[-1], math.sqrt(2) * noise)
    expected = math.sqrt(2) * 1e-3 * drawn[:-1] / counted
    np.testing.assert_allclose(found.mean[0], expected, rtol=1e-4)
    # 20,000 draws: the standard deviation is within 2 % at 4 sigma.
    np.testing.assert_allclose(drawn.std(), noise, rtol=0.02)


def test_one_key_gives_one_result_and_two_keys_two():
    features, labels = examples(100)
    once, again = (measure(features, labels, noise_multiplier=3.0) for _ in "ab")
    other = measure(features, labels, noise_multiplier=3.0, key=jax.random.key(1))
    for name in ("mean", "std"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    assert not np.allclose(once.mean, other.mean)


def test_queries_do_not_share_their_noise(monkeypatch):
    drawn = []

    def spying(stddev, key):
        noise = real(stddev, key)

        def update(sums, state):
            noised, state = noise.update(sums, state)
            drawn.append(np.asarray(noised - sums.to_float()))
            return noised, state

        return noise._replace(update=update)

    real = class_moments.gaussian_noise
    monkeypatch.setattr(class_moments, "gaussian_noise", spying)
    measure(*examples(100), weights=np.ones(SIZE), noise_multiplier=3.0)
    assert len(drawn) == class_moments.num_queries(covariances=True) == 3
    for one, other in itertools.combinations(drawn, 2):
        one, other = (noise.reshape(-1)[: CLASSES * SIZE] for noise in (one, other))
        assert not np.isclose(one, other).any()
    # 15 or 30 draws each: the spread is within a factor of 2 at 4 sigma.
    for noise in drawn:
        assert 1.5 < noise.std() < 6


def test_means_and_spreads_alone_take_two_queries(monkeypatch):
    calls = []
    real = class_moments.gaussian_noise

    def counting(stddev, key):
        noise = real(stddev, key)
        return noise._replace(
            update=lambda *arguments: calls.append(1) or noise.update(*arguments)
        )

    monkeypatch.setattr(class_moments, "gaussian_noise", counting)
    found = measure(*examples(100))
    assert found.covariance is None
    assert len(calls) == class_moments.num_queries(covariances=False) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_multiplier": 0.0}, "noise_multiplier is 0.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier is nan"),
        ({"l2_clip_norm": 0.0}, "l2_clip_norm is 0.0"),
        ({"l2_clip_norm": math.inf}, "l2_clip_norm is inf"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(InputError, match=message):
        measure(*examples(10), **changes)
