import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.evaluation import features
from dpdm_jax.evaluation.reference_statistics import statistics

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 3, 3, 1), np.uint8)


class Pixels:
    """Features that can be seen through."""

    name = "pixels"
    num_features = 9
    fingerprint = "pixels"
    batch_size = 8

    def __init__(self):
        self.settings = {}
        self.calls = 0

    def __call__(self, images):
        assert images.shape == (8, 3, 3, 1)
        self.calls += 1
        return jnp.asarray(images.reshape(8, 9), jnp.float32)


def summarise(extractor, images=IMAGES, **changes):
    arguments = {"first": 20, "keep": 30, "seed": 0, "what": "test"} | changes
    return statistics(extractor, images, **arguments)


def test_every_image_once_in_the_seeds_order():
    result = summarise(Pixels())
    flat = IMAGES.reshape(50, 9).astype(np.float64)[result.order]
    assert sorted(result.order) == list(range(50))
    assert list(result.order) != list(range(50))
    np.testing.assert_array_equal(result.kept, flat[:30])
    for moments, part in (
        (result.first, flat[:20]),
        (result.rest, flat[20:]),
        (result.moments, flat),
    ):
        assert moments.count == len(part)
        np.testing.assert_allclose(moments.mean, part.mean(axis=0))
        np.testing.assert_allclose(moments.covariance, np.cov(part, rowvar=False))
    assert list(summarise(Pixels(), seed=1).order) != list(result.order)


def test_batches_come_in_order_and_are_cut():
    order = np.arange(20)[::-1]
    batches = list(features.compute(Pixels(), IMAGES, order))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES[order].reshape(20, 9))


def test_the_cache_gives_back_the_same(tmp_path):
    extractor = Pixels()
    fresh = summarise(extractor, cache_folder=tmp_path)
    assert extractor.calls == 7
    read = summarise(extractor, cache_folder=tmp_path)
    fewer = summarise(extractor, cache_folder=tmp_path, keep=10)
    assert extractor.calls == 7
    for result, keep in ((read, 30), (fewer, 10)):
        np.testing.assert_array_equal(result.kept, fresh.kept[:keep])
        np.testing.assert_array_equal(result.order, fresh.order)
        np.testing.assert_array_equal(
            result.moments.covariance, fresh.moments.covariance
        )
        assert result.first.count == 20


def change_a_pixel(images):
    images = images.copy()
    images[3, 1, 1, 0] ^= 1
    return images


@pytest.mark.parametrize(
    "changes",
    [
        {"images": change_a_pixel(IMAGES)},
        {"images": IMAGES[:49]},
        {"first": 21},
        {"seed": 1},
        {"keep": 40},
    ],
)
def test_the_cache_knows_what_it_holds(tmp_path, changes):
    extractor = Pixels()
    summarise(extractor, cache_folder=tmp_path)
    calls = extractor.calls
    summarise(extractor, cache_folder=tmp_path, **changes)
    assert extractor.calls > calls


def test_the_cache_knows_the_features(tmp_path):
    summarise(Pixels(), cache_folder=tmp_path)
    other = Pixels()
    other.fingerprint = "other weights"
    summarise(other, cache_folder=tmp_path)
    assert other.calls == 7
