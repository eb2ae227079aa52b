"""The cipher by its published vectors; its keys in all that the losses do with keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from dpdm_jax import devices
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import threefry

# Random123's known answers for threefry4x32 with 20 rounds: counter, key, result.
_KNOWN = [
    (
        4 * "00000000 ",
        4 * "00000000 ",
        "9c6ca96a e17eae66 fc10ecd4 5256a7d8",
    ),
    (
        4 * "ffffffff ",
        4 * "ffffffff ",
        "2a881696 57012287 f6c7446e a16a6732",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0 082efa98 ec4e6c89",
        "59cd1dbb b8879579 86b5d00c ac8b6d84",
    ),
]


def words(text):
    return jnp.array([int(word, 16) for word in text.split()], jnp.uint32)


@pytest.fixture(scope="module")
def key():
    return threefry.secret_key(bytes(range(16)))


@pytest.mark.parametrize(("counter", "key", "result"), _KNOWN)
@pytest.mark.parametrize(
    "cipher",
    # Compiled for CPUs, what is for other processors takes minutes.
    [threefry.block, threefry._at_once],
)
def test_known_answers(cipher, counter, key, result):
    made = cipher(words(key), list(words(counter)))
    np.testing.assert_array_equal(jnp.stack(made), words(result))


def test_every_bit_of_a_secret_counts():
    secrets = [(1 << bit >> 1).to_bytes(16, "little") for bit in range(129)]
    keys = jnp.stack([threefry.secret_key(secret) for secret in secrets])
    draws = jax.jit(jax.vmap(lambda key: jax.random.bits(key, (2,))))(keys)
    assert len(np.unique(draws, axis=0)) == 129


def test_what_follows_from_a_key_has_as_many_bits(key):
    children = [
        *jax.random.split(key, 3),
        *(jax.random.fold_in(key, i) for i in (0, 1)),
    ]
    data = [tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in children]
    assert {len(words) for words in data} == {4}
    # No word of one is a word of another, nor of what the key itself draws.
    drawn = np.asarray(jax.random.bits(key, (64,))).tolist()
    every = [word for words in data for word in words] + drawn
    assert len(set(every)) == len(every)


def test_draws_are_uniform_and_independent_of_each_other(key):
    """Error rate of each check 1e-3; the key is fixed."""
    drawn = np.asarray(jax.random.bits(key, (100_001,)))
    assert drawn.shape == (100_001,)
    p = scipy.stats.kstest(drawn / 2**32, "uniform").pvalue
    assert p > 1e-3
    ones = np.unpackbits(drawn[:, None].view(np.uint8), axis=1).sum(axis=0)
    scatter = np.sum((ones - drawn.size / 2) ** 2) / (drawn.size / 4)
    assert scipy.stats.chi2.sf(scatter, 32) > 1e-3
    normal = np.asarray(jax.random.normal(key, (100_000,)))
    assert scipy.stats.kstest(normal, "norm").pvalue > 1e-3
    # Words that lie a quarter apart come from one block.
    for lag in (1, 25_000, 50_000):
        r = np.corrcoef(normal[lag:], normal[:-lag])[0, 1]
        assert abs(r) * (normal.size - lag) ** 0.5 < 3.3


def test_other_sizes_of_words(key):
    for width, shape in ((8, (3, 5)), (16, ()), (32, (0,)), (32, (2, 1, 3))):
        made = jax.random.bits(key, shape, f"uint{width}")
        assert (made.shape, made.dtype) == (shape, np.dtype(f"uint{width}"))
    with jax.enable_x64(True):
        made = np.asarray(jax.random.bits(key, (5,), "uint64"))
    low, high = np.asarray(jax.random.bits(key, (2, 5)), np.uint64)
    np.testing.assert_array_equal(made, low + high * 2**32)


def test_many_keys_at_once_draw_what_each_draws_alone(key):
    def draw(i):
        one, other = jax.random.split(jax.random.fold_in(key, i))
        return jax.random.normal(one, (3,)), jax.random.bernoulli(other)

    together = jax.jit(jax.vmap(draw))(jnp.arange(4))
    for i in range(4):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(x[i], y, rtol=1e-6),
            together,
            draw(i),
        )


def test_devices_hold_them_like_others(key):
    placed = devices.place(key, devices.replicated(devices.data_mesh()))
    assert placed.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.bits(placed), jax.random.bits(key))


@pytest.mark.parametrize("size", [0, 8, 15, 17])
def test_a_key_of_another_size_is_refused(size):
    with pytest.raises(InputError, match=f"has {size} bytes; allowed: 16"):
        threefry.secret_key(bytes(size))


def test_no_key_comes_from_a_seed():
    with pytest.raises(InputError, match="16 secret bytes"):
        jax.random.key(0, impl=threefry._THREEFRY_4X32)
