"""Normalisations: of features, and of groups with SiLU and a two-sweep backward pass.

Derived by differentiation, the latter's backward pass would read the activations once
for each of six sums. All of them follow from two sums per image and channel, which are
taken together.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32


def unit_variance(x: Float[Array, "*n c"]) -> Float[Array, "*n c"]:
    """Zero mean and unit variance over the last axis, computed in float32.

    Args:
        x: features.

    Returns:
        Normalised features, of x's dtype.
    """
    wide = x.astype(jnp.float32)
    mean = jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.var(wide, axis=-1, keepdims=True)
    return ((wide - mean) * lax.rsqrt(variance + 1e-6)).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm_silu(
    x: Float[Array, "n h w c"],
    scale: Float32[Array, " c"] | Float32[Array, "n c"],
    bias: Float32[Array, " c"] | Float32[Array, "n c"],
    num_groups: int,
    epsilon: float,
) -> Float[Array, "n h w c"]:
    """``silu(scale * normalised(x) + bias)``, computed in float32.

    Args:
        x: features of images.
        scale: of each channel, or of each image's.
        bias: like the scale.
        num_groups: divides c; each group of adjacent channels is normalised by itself.
        epsilon: added to the variance, > 0.

    Returns:
        Features of x's dtype.
    """
    return _forward(x, scale, bias, num_groups, epsilon)[0]


def _forward(
    x: Array,
    scale: Array,
    bias: Array,
    num_groups: int,
    epsilon: float,
) -> tuple[Array, tuple[Array, ...]]:
    z = x.astype(jnp.float32)
    mean = _mean_over_group(jnp.sum(z, axis=(1, 2)), x.shape, num_groups)
    squares = jnp.sum((z - mean) ** 2, axis=(1, 2))
    inverse = lax.rsqrt(_mean_over_group(squares, x.shape, num_groups) + epsilon)
    y = jax.nn.silu((z - mean) * (inverse * _on_pixels(scale)) + _on_pixels(bias))
    return y.astype(x.dtype), (x, scale, bias, mean, inverse)


def _backward(
    num_groups: int, epsilon: float, residuals: tuple[Array, ...], dy: Array
) -> tuple[Array, Array, Array]:
    del epsilon
    x, scale, bias, mean, inverse = residuals
    normalised = (x.astype(jnp.float32) - mean) * inverse
    u = normalised * _on_pixels(scale) + _on_pixels(bias)
    sigmoid = jax.nn.sigmoid(u)
    du = dy.astype(jnp.float32) * sigmoid * (1 + u * (1 - sigmoid))
    # Per image and channel.
    du_sum, product_sum = lax.platform_dependent(
        du, du * normalised, cpu=_sums_in_one_sweep, default=_sums
    )
    of_group = functools.partial(_mean_over_group, shape=x.shape, num_groups=num_groups)
    dx = inverse * (
        _on_pixels(scale) * du
        - of_group(scale * du_sum)
        - normalised * of_group(scale * product_sum)
    )
    if scale.ndim == 1:
        product_sum, du_sum = product_sum.sum(axis=0), du_sum.sum(axis=0)
    return dx.astype(x.dtype), product_sum, du_sum


group_norm_silu.defvjp(_forward, _backward)


def _on_pixels(
    a: Float[Array, " c"] | Float[Array, "n c"],
) -> Float[Array, " c"] | Float[Array, "n 1 1 c"]:
    """In a shape that meets those of images."""
    return a if a.ndim == 1 else a[:, None, None, :]


def _sums(a: Array, b: Array) -> tuple[Array, Array]:
    return a.sum(axis=(1, 2)), b.sum(axis=(1, 2))


def _sums_in_one_sweep(a: Array, b: Array) -> tuple[Array, Array]:
    # Two sums would compute what they share, with its exponentials, twice.
    add = lambda x, y: (x[0] + y[0], x[1] + y[1])  # noqa: E731
    zero = jnp.zeros((), a.dtype)
    return tuple(lax.reduce((a, b), (zero, zero), add, (1, 2)))


def _mean_over_group(
    sums: Float[Array, "n c"], shape: tuple[int, ...], num_groups: int
) -> Float[Array, "n 1 1 c"]:
    """Sums over pixels to each channel's mean of its group."""
    n, height, width, channels = shape
    per_group = channels // num_groups
    means = sums.reshape(n, num_groups, per_group).sum(axis=-1) / (
        height * width * per_group
    )
    return jnp.repeat(means, per_group, axis=-1)[:, None, None, :]
