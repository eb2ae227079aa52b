import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpdm_jax.networks.normalization import group_norm_silu

_EPSILON = 1e-6


def flax_layers(x, scale, bias, num_groups):
    norm = nnx.GroupNorm(
        x.shape[-1],
        num_groups,
        epsilon=_EPSILON,
        use_fast_variance=False,
        rngs=nnx.Rngs(0),
    )
    norm.scale[...], norm.bias[...] = scale, bias
    return nnx.silu(norm(x))


def ours(x, scale, bias, num_groups):
    return group_norm_silu(x, scale, bias, num_groups, _EPSILON)


def arrays(shape):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 2 + 3 * jax.random.normal(keys[0], shape)
    scale = 1 + 0.3 * jax.random.normal(keys[1], shape[-1:])
    bias = jax.random.normal(keys[2], shape[-1:])
    return x, scale, bias, jax.random.normal(keys[3], shape)


@pytest.mark.slow
@pytest.mark.parametrize("num_groups", [1, 2, 4, 8])
def test_values_and_gradients_are_those_of_flax(num_groups):
    x, scale, bias, dy = arrays((3, 5, 4, 8))
    results = []
    for function in (ours, flax_layers):
        y, pullback = jax.vjp(lambda *a, f=function: f(*a, num_groups), x, scale, bias)
        results.append((y, *pullback(dy)))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_gradients_of_examples_are_those_of_flax():
    x, scale, bias, dy = arrays((4, 2, 5, 5, 8))

    def gradients(function):
        def one(x, dy):
            return jax.vjp(lambda *a: function(*a, 4), x, scale, bias)[1](dy)

        return jax.jit(jax.vmap(one))(x, dy)

    for a, b in zip(gradients(ours), gradients(flax_layers), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_each_image_may_have_its_own_scale_and_bias():
    x, _, _, dy = arrays((3, 5, 4, 8))
    scale, bias = jax.random.normal(jax.random.key(1), (2, 3, 8))
    y, pullback = jax.vjp(lambda *a: ours(*a, 4), x, scale, bias)
    dx, dscale, dbias = pullback(dy)
    for i in range(3):
        one = slice(i, i + 1)
        y_i, pullback_i = jax.vjp(lambda *a: ours(*a, 4), x[one], scale[i], bias[i])
        for a, b in zip(
            (y[i], dx[i], dscale[i], dbias[i]),
            (y_i[0], *(g.reshape(g.shape[-3:]) for g in pullback_i(dy[one]))),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_constant_images_stay_finite():
    x, scale, bias, dy = arrays((2, 4, 4, 8))
    y, pullback = jax.vjp(lambda *a: ours(*a, 2), jnp.full_like(x, 7.0), scale, bias)
    np.testing.assert_allclose(y, jnp.broadcast_to(nnx.silu(bias), y.shape), atol=1e-5)
    assert all(bool(jnp.isfinite(g).all()) for g in pullback(dy))


def test_bfloat16_is_computed_in_float32():
    x, scale, bias, dy = arrays((2, 16, 16, 8))
    x, dy = x.astype(jnp.bfloat16), dy.astype(jnp.bfloat16)
    y, pullback = jax.vjp(lambda *a: ours(*a, 2), x, scale, bias)
    assert y.dtype == jnp.bfloat16
    dx, dscale, dbias = pullback(dy)
    assert (dx.dtype, dscale.dtype, dbias.dtype) == (jnp.bfloat16, *2 * (jnp.float32,))
    wide = jax.vjp(lambda *a: ours(*a, 2), x.astype(jnp.float32), scale, bias)[1]
    for a, b in zip((dscale, dbias), wide(dy.astype(jnp.float32))[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
