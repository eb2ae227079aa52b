import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dpdm_jax.images.augmentation import random_crop, random_flip

IMAGE = jnp.arange(5 * 6 * 2, dtype=jnp.float32).reshape(5, 6, 2)


def crops_by_hand(padding):
    wide = np.pad(IMAGE, ((padding, padding), (padding, padding), (0, 0)), "reflect")
    offsets = range(2 * padding + 1)
    return [wide[i : i + 5, j : j + 6] for i in offsets for j in offsets]


def test_every_crop_is_as_likely():
    possible = {crop.tobytes(): i for i, crop in enumerate(crops_by_hand(2))}
    assert len(possible) == 25
    keys = jax.random.split(jax.random.key(0), 5000)
    found = np.asarray(jax.vmap(lambda key: random_crop(key, IMAGE, 2))(keys))
    counts = np.bincount([possible[crop.tobytes()] for crop in found], minlength=25)
    # Rejects a right program with probability 1e-6; the key is fixed.
    assert stats.chisquare(counts).pvalue > 1e-6


def test_no_padding_is_no_crop():
    assert random_crop(jax.random.key(0), IMAGE, 0) is IMAGE


def test_flips_are_half():
    keys = jax.random.split(jax.random.key(0), 1000)
    found = np.asarray(jax.vmap(lambda key: random_flip(key, IMAGE))(keys))
    flipped = np.all(found == np.asarray(IMAGE)[:, ::-1], axis=(1, 2, 3))
    plain = np.all(found == np.asarray(IMAGE), axis=(1, 2, 3))
    assert np.all(flipped ^ plain)
    low, high = stats.binom.interval(1 - 1e-6, 1000, 0.5)
    assert low <= flipped.sum() <= high
