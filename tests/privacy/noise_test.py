"""The statistical tests here reject a right program with probability 1e-6 each.

Keys are fixed, so a test that passes once passes always.
"""

import dataclasses
import functools
import inspect
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from float_sums import exact, in_float32, is_sum
from scipy import stats

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import ExactSum
from dpdm_jax.privacy.exact import discrete_gaussian
from dpdm_jax.privacy.noise import (
    GaussianNoiseState,
    gaussian_noise,
    new_noise_key,
    normalize_by,
)

pytestmark = pytest.mark.optimized  # the noise that users draw

ERROR_RATE = 1e-6
STDDEV = 0.7
CLIPPED_SUM = exact(
    {
        "conv": {
            "kernel": jnp.linspace(-3.0, 3.0, 24).reshape(2, 3, 4),
            "bias": jnp.ones(4),
        },
        "scale": jnp.float32(2.5),
    },
    l2_clip_norm=16.0,
)


def two_keys(seed=0):
    return jax.random.split(jax.random.key(seed), 2)


def flat(tree):
    leaves = jax.tree.leaves(in_float32(tree))
    return np.concatenate([np.ravel(leaf) for leaf in leaves]).astype(np.float64)


@functools.partial(jax.jit, static_argnames=("num_steps", "stddev"))
def noised_of_steps(key, updates, num_steps, stddev):
    """What the transform makes of the same sum in successive steps; compiled once."""
    tx = gaussian_noise(stddev, key)

    def step(state, _):
        noised, state = tx.update(updates, state)
        return state, noised

    return jax.lax.scan(step, tx.init(updates), length=num_steps)[1]


def noise_of_steps(key, updates, num_steps, stddev=STDDEV):
    """(noised sum - sum) / stddev of successive steps, [num_steps, coordinates]."""
    updates = updates if is_sum(updates) else exact(updates)
    noised = noised_of_steps(key, updates, num_steps, stddev)
    joined = [np.reshape(leaf, (num_steps, -1)) for leaf in jax.tree.leaves(noised)]
    return (np.concatenate(joined, 1) - flat(updates)) / stddev


@pytest.mark.slow
@pytest.mark.parametrize("key", [jax.random.key(1), two_keys(1)])
def test_realised_noise_is_normal_with_the_stated_deviation(key):
    z = noise_of_steps(key, CLIPPED_SUM, 10_000)
    assert z.shape == (10_000, 29)
    num = z.size
    assert stats.kstest(z.ravel(), "norm").pvalue > ERROR_RATE
    limit = stats.norm.isf(ERROR_RATE / 2)
    assert abs(z.mean()) < limit / np.sqrt(num)
    assert abs(z.std() - 1) < limit / np.sqrt(2 * num)
    # The test has the power to see a tenth too much or too little.
    for wrong_scale in (0.9, 1.1):
        assert stats.kstest(wrong_scale * z.ravel(), "norm").pvalue < ERROR_RATE


@pytest.mark.slow
@pytest.mark.parametrize("stddev", [1e-4, 1.0, 300.0])
def test_deviation_scales_the_noise(stddev):
    z = noise_of_steps(two_keys(2), {"w": jnp.zeros(1000)}, 20, stddev)
    assert stats.kstest(z.ravel(), "norm").pvalue > ERROR_RATE


@pytest.mark.slow
def test_every_coordinate_has_its_own_noise_at_full_scale():
    num = 4_000
    z = noise_of_steps(two_keys(3), CLIPPED_SUM, num)
    error_rate = ERROR_RATE / z.shape[1]
    low, high = stats.chi2.interval(1 - error_rate, num)
    squares = (z**2).sum(axis=0)
    assert np.all((low < squares) & (squares < high))
    correlation = np.corrcoef(z, rowvar=False)
    np.fill_diagonal(correlation, 0.0)
    limit = stats.norm.isf(ERROR_RATE / z.shape[1] ** 2) / np.sqrt(num)
    assert np.abs(correlation).max() < limit


@pytest.mark.slow
def test_steps_are_independent():
    z = noise_of_steps(two_keys(4), {"w": jnp.zeros(4_000)}, 20)
    correlation = np.corrcoef(z)
    np.fill_diagonal(correlation, 0.0)
    limit = stats.norm.isf(ERROR_RATE / 20**2) / np.sqrt(4_000)
    assert np.abs(correlation).max() < limit


@pytest.mark.slow
@pytest.mark.parametrize("lag", [1, 2, 24, 1000])
def test_neighbouring_coordinates_are_independent(lag):
    num = 200_000
    (z,) = noise_of_steps(two_keys(5), {"w": jnp.zeros(num)}, 1)
    limit = stats.norm.isf(ERROR_RATE / 2) / np.sqrt(num - lag)
    assert abs(np.mean(z[lag:] * z[:-lag])) < limit


@pytest.mark.slow
def test_leaves_of_the_same_shape_get_different_noise():
    updates = {"a": jnp.zeros(50), "b": jnp.zeros(50)}
    (z,) = noise_of_steps(two_keys(6), updates, 1)
    assert len(np.unique(z)) == 100


@pytest.mark.slow
def test_mass_of_the_tails():
    num = 2**22
    (z,) = noise_of_steps(two_keys(7), {"w": jnp.zeros(num)}, 1)
    for threshold in (3.0, 4.0, 5.0):
        expected = num * stats.norm.sf(threshold)
        low, high = stats.poisson.interval(1 - ERROR_RATE, expected)
        for beyond in (np.sum(z > threshold), np.sum(z < -threshold)):
            assert low <= beyond <= high


@pytest.mark.slow
def test_step_repeats_its_noise_and_the_next_step_does_not():
    tx = gaussian_noise(STDDEV, two_keys())
    state = tx.init(CLIPPED_SUM)
    first, after = tx.update(CLIPPED_SUM, state)
    again, _ = tx.update(CLIPPED_SUM, state)
    second, _ = tx.update(CLIPPED_SUM, after)
    np.testing.assert_array_equal(flat(first), flat(again))
    assert not np.any(flat(first) == flat(second))
    assert (int(state.count), int(after.count)) == (0, 1)


def test_noise_does_not_depend_on_the_updates():
    tx = gaussian_noise(1.0, two_keys())
    zeros = jax.tree.map(jnp.zeros_like, CLIPPED_SUM)
    noise, _ = tx.update(zeros, tx.init(zeros))
    noised, _ = tx.update(CLIPPED_SUM, tx.init(CLIPPED_SUM))
    np.testing.assert_allclose(flat(noised), flat(CLIPPED_SUM) + flat(noise), atol=1e-6)


def test_restored_state_repeats_the_noise():
    tx = gaussian_noise(STDDEV, two_keys())
    state = tx.init(CLIPPED_SUM)
    for _ in range(3):
        _, state = tx.update(CLIPPED_SUM, state)
    stored = np.asarray(jax.random.key_data(state.key)), np.asarray(state.count)
    expected, _ = tx.update(CLIPPED_SUM, state)

    # Another process: the state alone decides, not the key that made the transform.
    other = gaussian_noise(STDDEV, two_keys(99))
    restored = GaussianNoiseState(
        jax.random.wrap_key_data(jnp.asarray(stored[0])), jnp.asarray(stored[1])
    )
    repeated, after = other.update(CLIPPED_SUM, restored)
    np.testing.assert_array_equal(flat(repeated), flat(expected))
    assert int(after.count) == 4


@pytest.mark.slow
def test_noise_depends_on_every_key():
    one, two = two_keys()
    updates = {"w": jnp.zeros(100)}
    noises = [
        noise_of_steps(key, updates, 1)
        for key in (one, two, jnp.stack([one, two]), two_keys(1))
    ]
    for i, noise in enumerate(noises):
        for other in noises[:i]:
            assert not np.any(noise == other)


@pytest.mark.slow
def test_a_key_and_a_list_of_that_one_key_are_the_same():
    key = jax.random.key(0)
    single, listed = (
        noise_of_steps(k, {"w": jnp.zeros(9)}, 2) for k in (key, key.reshape(1))
    )
    np.testing.assert_array_equal(single, listed)


@pytest.mark.slow
@pytest.mark.parametrize("copies", [2, 3, 4])
def test_repeated_keys_do_not_cancel(copies):
    key = jnp.stack([jax.random.key(0)] * copies)
    z = noise_of_steps(key, {"w": jnp.zeros(1000)}, 5)
    assert stats.kstest(z.ravel(), "norm").pvalue > ERROR_RATE


def test_new_key_is_128_bits_of_the_operating_system(monkeypatch):
    secret = bytes(range(16))
    asked = []

    def urandom(size):
        asked.append(size)
        return secret

    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", urandom)
        key = new_noise_key()
    assert asked == [16]
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert np.asarray(jax.random.key_data(key)).tobytes() == secret
    assert key.shape == (2,)


@pytest.mark.slow
def test_new_keys_and_their_noise_differ_whatever_the_seeds():
    words, noises = set(), set()
    for _ in range(8):
        np.random.seed(0)
        key = new_noise_key()
        words |= {bytes(w) for w in np.asarray(jax.random.key_data(key))}
        noises.add(noise_of_steps(key, {"w": jnp.zeros(4)}, 1).tobytes())
    # 16 words of 64 bits: equal ones have probability 7e-18.
    assert len(words) == 16
    assert len(noises) == 8


def test_there_is_no_default_key():
    key = inspect.signature(gaussian_noise).parameters["key"]
    assert key.default is inspect.Parameter.empty
    with pytest.raises(TypeError):
        gaussian_noise(1.0)


def test_no_noise_leaves_the_updates_alone_but_counts():
    tx = gaussian_noise(0.0, two_keys())
    noised, state = tx.update(CLIPPED_SUM, tx.init(CLIPPED_SUM))
    np.testing.assert_array_equal(flat(noised), flat(CLIPPED_SUM))
    assert int(state.count) == 1


@pytest.mark.parametrize(
    ("stddev", "key", "message"),
    [
        (-1.0, two_keys(), "noise is -1.0; allowed: a finite number >= 0"),
        (np.nan, two_keys(), "noise is nan; allowed: a finite number >= 0"),
        (np.inf, two_keys(), "noise is inf; allowed: a finite number >= 0"),
        ("1", two_keys(), "noise is '1'; allowed: a finite number >= 0"),
        (True, two_keys(), "noise is True; allowed: a finite number >= 0"),
        (1.0, 0, "noise key is a int; allowed: typed PRNG keys"),
        (1.0, None, "noise key is a NoneType; allowed: typed PRNG keys"),
        (1.0, jnp.zeros(2, jnp.uint32), "allowed: typed PRNG keys"),
        (1.0, jax.random.key(0, impl="rbg"), "is one of rbg; allowed: threefry2x32"),
    ],
)
@pytest.mark.usefixtures("unchecked_arrays")
def test_bad_noise_is_refused(stddev, key, message):
    with pytest.raises(InputError, match=message):
        gaussian_noise(stddev, key)


@pytest.mark.parametrize("constant", [0, -2.0, np.inf, np.nan, "4"])
def test_bad_constant_is_refused(constant):
    with pytest.raises(
        InputError, match=r"normalizing constant is .*; allowed: .* > 0"
    ):
        normalize_by(constant)


def test_normalize_by_divides():
    tx = normalize_by(4)
    noised = CLIPPED_SUM.to_float()
    mean, _ = tx.update(noised, tx.init(noised))
    np.testing.assert_array_equal(flat(mean), flat(noised) / 4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_noised_sums_are_float32(dtype):
    updates = exact({"w": jnp.zeros(2000, dtype)})
    tx = gaussian_noise(2.0, two_keys())
    noised, _ = jax.jit(tx.update)(updates, tx.init(updates))
    assert noised["w"].dtype == jnp.float32
    z = np.asarray(noised["w"], np.float64) / 2.0
    assert stats.kstest(z, "norm").pvalue > ERROR_RATE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "complex64"])
def test_what_is_no_exact_sum_is_refused(dtype):
    """Its last bits, or half of a complex number, would stay without noise."""
    tx = gaussian_noise(1.0, two_keys())
    with pytest.raises(InputError, match=r"allowed: an exact sum, as privacy\.clipped"):
        tx.update({"w": jnp.ones(3, dtype)}, tx.init(None))


@pytest.mark.parametrize("stddev", [2.0**-26, 2.0**19])
def test_noise_out_of_range_of_the_grid_is_refused(stddev):
    tx = gaussian_noise(stddev, two_keys())
    with pytest.raises(InputError, match=r"allowed: .* times the clip norm"):
        tx.update(exact(jnp.zeros(3)), tx.init(None))


def test_no_noised_value_comes_twice():
    """Numbers are of 2^28 grid steps and more, so that equal ones are of one draw."""
    draws = noise_of_steps(two_keys(8), {"w": jnp.zeros(50)}, 40)
    assert len(np.unique(draws)) == draws.size


@pytest.mark.slow
def test_private_optimizer_step():
    """The chain equals, by hand: noise the sum, divide it, give it to Adam."""
    noise, adam = gaussian_noise(STDDEV, two_keys()), optax.adam(3e-4)
    tx = optax.chain(noise, normalize_by(8.0), adam)
    params = jax.tree.map(jnp.zeros_like, CLIPPED_SUM.to_float())
    state = tx.init(params)
    noise_state, adam_state = noise.init(params), adam.init(params)
    step = jax.jit(tx.update)
    for _ in range(3):
        updates, state = step(CLIPPED_SUM, state, params)
        noised, noise_state = noise.update(CLIPPED_SUM, noise_state)
        mean = jax.tree.map(lambda leaf: leaf / 8.0, noised)
        expected, adam_state = adam.update(mean, adam_state)
        np.testing.assert_allclose(flat(updates), flat(expected), rtol=1e-4, atol=1e-9)
    assert step._cache_size() == 1


def test_pytree_without_leaves():
    tx = gaussian_noise(1.0, two_keys())
    updates, state = tx.update(ExactSum({}, {}, 1.0), tx.init({}))
    assert updates == {}
    assert int(state.count) == 1


def test_more_numbers_than_there_are_places_are_refused():
    """From there on noise would come twice, and a difference would have none."""
    size = discrete_gaussian.MAX_SIZE
    words = [{"w": jax.ShapeDtypeStruct((n,), jnp.int32)} for n in (size + 1,) * 2]
    total = dataclasses.replace(CLIPPED_SUM, low=words[0], high=words[1])
    tx = gaussian_noise(1.0, two_keys())
    with pytest.raises(InputError, match=f"{size + 1} numbers.*at most {size}"):
        tx.update(total, tx.init(total))
