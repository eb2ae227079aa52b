"""3x3 convolution whose gradients are fast on CPU, those of single examples as well.

XLA's CPU compiler has a fast program for one form of a convolution: images and kernels
in the order of ``_FORM``, without dilation. It brings others into that form only
outside of loops, and those that work out weight gradients run many times slower inside
one. Mapped over examples, a weight gradient is a convolution with a group for each,
which has no fast program at all. So gradients are written in that form here, and those
of examples are taken one after another.

An image that a window does not fit into has no fast program either, and for the
gradient by an image the kernel is turned around, number by number. There, and where
pixels are few beside channels, a convolution is a product. Accelerators keep
``lax.conv``.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from dpdm_jax.networks import product

_FORM = ("NHWC", "HWIO", "NHWC")
_WINDOW = 3


def conv3x3(
    x: Float[Array, "n h w i"],
    kernel: Float[Array, "3 3 i o"],
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
) -> Float[Array, "n h2 w2 o"]:
    """Convolution with rows and columns of zeros around the image.

    Args:
        x: images.
        kernel: of their dtype.
        stride: of the windows.
        padding: rows, and columns, of zeros in front of the image and behind it. Where
            it is not the default all is ``lax.conv``, on CPU, too.

    Returns:
        Images of ceil(h / stride) by ceil(w / stride), by default.
    """
    if padding != (1, 1):
        return _plain(stride, x, kernel, padding)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_on_cpu, stride),
        default=functools.partial(_plain, stride),
    )


def _plain(
    stride: int, x: Array, kernel: Array, padding: tuple[int, int] = (1, 1)
) -> Array:
    # Not "SAME", which pads images of even sides at one end only if the stride is 2.
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=_FORM,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _on_cpu(stride: int, x: Array, kernel: Array) -> Array:
    if _fits(x):
        return _plain(stride, x, kernel)
    # The windows of all pixels: there are at most two in a row or column.
    shifted = jax.vmap(lambda image: _shifted(image, (0, 1, 2)))(x)
    y = shifted @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(*x.shape[:3], -1)[:, ::stride, ::stride]


def _fits(x: Float[Array, "n h w i"]) -> bool:
    return min(x.shape[1:3]) >= _WINDOW


_Residuals = tuple[Array, Array]


def _forward(stride: int, x: Array, kernel: Array) -> tuple[Array, _Residuals]:
    return _on_cpu(stride, x, kernel), (x, kernel)


def _backward(stride: int, residuals: _Residuals, dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dy = _spread(dy, stride, x.shape[1:3])
    return _image_gradient(kernel, dy), _weight_gradient(x, dy)


_on_cpu.defvjp(_forward, _backward)


def _spread(
    dy: Float[Array, "n h2 w2 o"], stride: int, sides: tuple[int, ...]
) -> Float[Array, "n h w o"]:
    """The gradient by all windows, zero by those that the stride passes over."""
    if stride == 1:
        return dy
    inner = [
        (0, side - stride * (few - 1) - 1, stride - 1)
        for side, few in zip(sides, dy.shape[1:3], strict=True)
    ]
    none = (0, 0, 0)
    return lax.pad(dy, jnp.zeros((), dy.dtype), (none, *inner, none))


def _image_gradient(
    kernel: Float[Array, "3 3 i o"], dy: Float[Array, "n h w o"]
) -> Float[Array, "n h w i"]:
    n, h, w, o = dy.shape
    channels = kernel.shape[2:]
    if _fits(dy) and not product.are_few(n * h * w, channels, kernel.size):
        return _plain(1, dy, kernel[::-1, ::-1].swapaxes(2, 3))
    by_offset = product.by_transposed(kernel.reshape(-1, o), dy.reshape(-1, o))
    by_offset = by_offset.reshape(_WINDOW, _WINDOW, -1, n, h, w)
    zero = jnp.zeros((), by_offset.dtype)
    total = zero
    for i, j in itertools.product(range(_WINDOW), repeat=2):
        moved = ((0, 0, 0), (0, 0, 0), (i - 1, 1 - i, 0), (j - 1, 1 - j, 0))
        total += lax.pad(by_offset[i, j], zero, moved)
    return total.transpose(1, 2, 3, 0).astype(dy.dtype)


@jax.custom_batching.custom_vmap
def _weight_gradient(
    x: Float[Array, "n h w i"], dy: Float[Array, "n h w o"]
) -> Float[Array, "3 3 i o"]:
    """Summed over n, in float32."""
    total = _of_image(x[0], dy[0]) if len(x) == 1 else _of_images(x, dy)
    return total.astype(x.dtype)


@_weight_gradient.def_vmap
def _weight_gradients(
    axis_size: int, is_batched: list[bool], x: Array, dy: Array
) -> tuple[Array, bool]:
    x, dy = (
        a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
        for a, batched in zip((x, dy), is_batched, strict=True)
    )
    return lax.map(lambda arrays: _weight_gradient(*arrays), (x, dy)), True


def _of_images(
    x: Float[Array, "n h w i"], dy: Float[Array, "n h w o"]
) -> Float32[Array, "3 3 i o"]:
    """A convolution of images by their gradients, with n in the features' place."""
    products = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=_FORM,
        preferred_element_type=jnp.float32,
    )
    return products.transpose(1, 2, 0, 3)


def _of_image(
    x: Float[Array, "h w i"], dy: Float[Array, "h w o"]
) -> Float32[Array, "3 3 i o"]:
    """One product over the pixels: quicker than a convolution of a single feature.

    The side with fewer channels is gathered nine times, once for each offset.
    """
    c, o = x.shape[-1], dy.shape[-1]
    if c < o:
        products = _product(dy.reshape(-1, o), _shifted(x, (0, 1, 2)))
        return products.reshape(o, 3, 3, c).transpose(1, 2, 3, 0)
    # Shifting dy forwards is shifting x backwards.
    products = _product(x.reshape(-1, c), _shifted(dy, (2, 1, 0)))
    return products.reshape(c, 3, 3, o).transpose(1, 2, 0, 3)


def _product(a: Float[Array, "t i"], b: Float[Array, "t j"]) -> Float32[Array, "i j"]:
    return jnp.matmul(a.T, b, preferred_element_type=jnp.float32)


def _shifted(
    image: Float[Array, "h w c"], offsets: tuple[int, ...]
) -> Float[Array, "h*w 9*c"]:
    """Each pixel's neighbours, zero outside the image."""
    h, w, c = image.shape
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + h, j : j + w] for i in offsets for j in offsets]
    return jnp.concatenate(windows, axis=-1).reshape(h * w, 9 * c)
