import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import clipped_grad
from jax import lax

from dpdm_jax.networks import convolution, product


def plain(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def arrays(shape, out_channels, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape, dtype)
    kernel = jax.random.normal(keys[1], (3, 3, shape[-1], out_channels), dtype)
    dy = jax.random.normal(keys[2], (*shape[:-1], out_channels), dtype)
    return x, kernel, dy


def assert_like_lax(x, kernel, stride):
    """Values and gradients, of a batch and of each of its images by itself."""

    def run(conv, x):
        value, pullback = jax.vjp(functools.partial(conv, stride=stride), x, kernel)
        return value, *pullback(jnp.cos(jnp.arange(value.size)).reshape(value.shape))

    for of in (run, lambda conv, x: jax.vmap(lambda x: run(conv, x[None]))(x)):
        ours, theirs = (
            jax.jit(functools.partial(of, conv))(x)
            for conv in (convolution.conv3x3, plain)
        )
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("number", [1, 3])
def test_values_and_gradients_are_those_of_lax(channels, number):
    x, kernel, _ = arrays((number, 5, 7, channels[0]), channels[1])
    assert_like_lax(x, kernel, 1)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2), (2, 3)])
@pytest.mark.parametrize("stride", [2, 3])
def test_gradients_of_strides_are_those_of_lax(size, stride):
    x, kernel, _ = arrays((2, *size, 3), 4)
    assert_like_lax(x, kernel, stride)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (2, 5), (3, 3), (4, 4)])
@pytest.mark.parametrize("channels", [(3, 4), (4, 3), (3, 40), (40, 3)])
def test_small_images_have_the_gradients_of_lax(size, channels, monkeypatch):
    monkeypatch.setattr(product, "_MANY", 0)
    x, kernel, _ = arrays((2, *size, channels[0]), channels[1])
    assert_like_lax(x, kernel, 1)


def test_bfloat16_sums_offsets_in_float32(monkeypatch):
    monkeypatch.setattr(product, "_MANY", 0)
    # Offsets of 256 and ones: a sum in bfloat16 would leave the ones out.
    kernel = jnp.ones((3, 3, 1, 40), jnp.bfloat16).at[0, 0].set(256)
    dy = jnp.zeros((1, 3, 3, 40), jnp.bfloat16).at[..., 0].set(1)
    x = jnp.zeros((1, 3, 3, 1), jnp.bfloat16)
    dx, _ = jax.vjp(convolution.conv3x3, x, kernel)[1](dy)
    assert dx.dtype == jnp.bfloat16
    # Rounded once: 256 and eight ones.
    assert float(dx[0, 1, 1, 0]) == 264


def test_an_image_smaller_than_the_window_is_not_convolved():
    # XLA's CPU compiler would take the convolution apart into loops over single
    # numbers, some fifty times slower.
    for size, convolutions in (((2, 2), 0), ((2, 9), 0), ((3, 3), 1)):
        x, kernel, _ = arrays((1, *size, 4), 4)
        program = jax.jit(convolution.conv3x3).lower(x, kernel).compile().as_text()
        assert program.count(" convolution(") == convolutions


def test_other_paddings_have_the_gradients_of_lax():
    x, kernel, _ = arrays((2, 4, 6, 3), 4)
    conv = functools.partial(convolution.conv3x3, stride=2, padding=(0, 1))
    value, pullback = jax.vjp(conv, x, kernel)
    padded = lambda x, kernel: lax.conv_general_dilated(  # noqa: E731
        x,
        kernel,
        (2, 2),
        ((0, 1), (0, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    expected, expected_pullback = jax.vjp(padded, x, kernel)
    for one, other in zip(
        (value, *pullback(value)), (expected, *expected_pullback(value)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [(3, 5), (5, 3), (4, 4)])
@pytest.mark.parametrize("draws", [1, 3])
def test_gradients_of_examples_are_those_of_lax(channels, draws):
    x, kernel, dy = arrays((4, draws, 5, 7, channels[0]), channels[1])

    def gradients(conv):
        one = lambda x, dy: jax.vjp(conv, x, kernel)[1](dy)  # noqa: E731
        return jax.jit(jax.vmap(one))(x, dy)

    ours, theirs = gradients(convolution.conv3x3), gradients(plain)
    assert ours[1].shape == (4, *kernel.shape)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_gradients_where_only_one_side_is_mapped():
    x, kernel, dy = arrays((2, 4, 4, 3), 3)
    many = jnp.stack([dy, 2 * dy])
    ours = jax.vmap(lambda dy: jax.vjp(convolution.conv3x3, x, kernel)[1](dy)[1])(many)
    single = jax.vjp(plain, x, kernel)[1](dy)[1]
    np.testing.assert_allclose(ours[1], 2 * single, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_two_nested_maps():
    x, kernel, dy = arrays((2, 3, 2, 4, 4, 3), 3)
    one = lambda x, dy: jax.vjp(convolution.conv3x3, x, kernel)[1](dy)[1]  # noqa: E731
    expected = lambda x, dy: jax.vjp(plain, x, kernel)[1](dy)[1]  # noqa: E731
    np.testing.assert_allclose(
        jax.vmap(jax.vmap(one))(x, dy),
        jax.vmap(jax.vmap(expected))(x, dy),
        rtol=1e-5,
        atol=1e-4,
    )


@pytest.mark.slow
def test_bfloat16_sums_pixels_and_draws_in_float32():
    # 4,096 ones: a sum in bfloat16 would stop at 256.
    x = jnp.ones((1, 4, 32, 32, 2), jnp.bfloat16)
    kernel = jnp.zeros((3, 3, 2, 2), jnp.bfloat16)
    pull = lambda x, dy: jax.vjp(convolution.conv3x3, x, kernel)[1](dy)[1]  # noqa: E731
    for gradient in (jax.vmap(pull)(x, x)[0], jax.jit(pull)(x[0], x[0])):
        assert gradient.dtype == jnp.bfloat16
        assert float(gradient[1, 1, 0, 0]) == 4096


def test_accelerators_keep_the_plain_convolution():
    x, kernel, dy = arrays((2, 1, 4, 4, 3), 3)
    one = lambda x, dy: jax.vjp(convolution.conv3x3, x, kernel)[1](dy)[1]  # noqa: E731
    programs = {
        platform: jax.export.export(jax.jit(jax.vmap(one)), platforms=[platform])(
            x, dy
        ).mlir_module()
        for platform in ("cpu", "tpu", "cuda")
    }
    assert "stablehlo.while" in programs["cpu"]
    for platform in ("tpu", "cuda"):
        assert "stablehlo.while" not in programs[platform]
        assert "stablehlo.convolution" in programs[platform]


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_stride_keeps_every_other_window_from_the_first_one_on(size):
    x, kernel, _ = arrays((2, *size, 3), 4)
    actual = convolution.conv3x3(x, kernel, stride=2)
    expected = convolution.conv3x3(x, kernel)[:, ::2, ::2]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_engines_agree_on_a_strided_convolution():
    x, kernel, _ = arrays((3, 2, 4, 6, 3), 4)

    def loss(kernel, x):
        return jnp.sum(jnp.tanh(convolution.conv3x3(x, kernel, stride=2)))

    grad_fn = functools.partial(clipped_grad, loss, l2_clip_norm=9.0, batch_argnums=1)
    (expected, aux), (actual, _) = (
        grad_fn(engine=engine, return_grad_norms=True)(kernel, x)
        for engine in ("vmap", "book_keeping")
    )
    assert aux.grad_norms.min() < 9.0 < aux.grad_norms.max()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
