"""Bytes become the same floats wherever they are converted, and come back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels

LEVELS = np.arange(256, dtype=np.uint8)
# As the host divides, which is how images were converted before devices did it.
FLOATS = LEVELS.astype(np.float32) / np.float32(127.5) - np.float32(1)


def in_a_gradient(levels):
    def loss(weights, images):
        return jnp.sum(weights * pixels.to_float(images))

    return jax.grad(loss)(jnp.ones(levels.shape), levels)


def noisy(levels):
    """Beside an addition that a compiler could merge the conversion with."""
    return pixels.to_float(levels) + 0 * jnp.sin(levels.astype(jnp.float32))


@pytest.mark.optimized
@pytest.mark.parametrize(
    "convert",
    [
        pixels.to_float,
        jax.jit(pixels.to_float),
        jax.jit(jax.vmap(pixels.to_float)),
        jax.jit(in_a_gradient),
        jax.jit(jax.vmap(in_a_gradient)),
        jax.jit(noisy),
    ],
)
def test_every_level_has_the_same_bits(convert):
    floats = np.asarray(convert(LEVELS.reshape(4, 64))).ravel()
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats.view(np.int32), FLOATS.view(np.int32))
    assert (floats[0], floats[-1]) == (-1, 1)
    np.testing.assert_allclose(floats, LEVELS / 127.5 - 1, atol=1.2e-7)


def test_floats_are_no_pixels():
    with pytest.raises(TypeError, match="float32; allowed: uint8"):
        pixels.to_float(FLOATS)


def test_nearest_gives_back_every_level():
    floats = np.asarray(pixels.to_float(LEVELS))
    np.testing.assert_array_equal(pixels.to_uint8(floats, "nearest"), LEVELS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("low_high", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_ends_of_the_range_are_0_and_255(low_high, dtype):
    low, high = low_high
    values = np.array([low - 1, low, (low + high) / 2, high, high + 1], dtype)
    for rounding, middle in ("truncate", 127), ("nearest", 128):
        found = pixels.to_uint8(values, rounding, low_high)
        assert found.tolist() == [0, 0, middle, 255, 255]


def test_the_papers_formula_has_the_same_bits():
    x = np.random.default_rng(0).uniform(-1.1, 1.1, 10**6).astype(np.float32)
    levels = np.clip(x / 2 + np.float32(0.5), 0, 1) * np.float32(255)
    np.testing.assert_array_equal(pixels.to_uint8(x), levels.astype(np.uint8))
    nearest = np.rint(levels).astype(np.uint8)
    np.testing.assert_array_equal(pixels.to_uint8(x, "nearest"), nearest)


def test_unknown_rounding_is_refused():
    with pytest.raises(InputError, match="'floor'; allowed: truncate, nearest"):
        pixels.to_uint8(FLOATS, "floor")
