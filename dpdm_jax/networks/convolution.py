"""3x3 convolution whose weight gradients of single examples are fast on CPU.

Mapped over examples, the weight gradient of ``lax.conv`` becomes a convolution with a
group for each example, for which the CPU has no fast program. There each example's is
computed as matrix products instead, image after image so that the operands stay in the
cache. Everything else is ``lax.conv``, and so is everything on accelerators.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32


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
            this or the stride is not the default it is ``lax.conv`` on CPU, too.

    Returns:
        Images of ceil(h / stride) by ceil(w / stride), by default.
    """
    if stride > 1 or padding != (1, 1):
        return _plain(x, kernel, stride, padding)
    return lax.platform_dependent(x, kernel, cpu=_on_cpu, default=_plain)


def _plain(
    x: Array, kernel: Array, stride: int = 1, padding: tuple[int, int] = (1, 1)
) -> Array:
    # Not "SAME", which pads images of even sides at one end only if the stride is 2.
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@jax.custom_vjp
def _on_cpu(x: Array, kernel: Array) -> Array:
    return _plain(x, kernel)


_Residuals = tuple[Array, Array]


def _forward(x: Array, kernel: Array) -> tuple[Array, _Residuals]:
    return _plain(x, kernel), (x, kernel)


def _backward(residuals: _Residuals, dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return _plain(dy, flipped), _weight_gradient(x, dy)


_on_cpu.defvjp(_forward, _backward)


@jax.custom_batching.custom_vmap
def _weight_gradient(
    x: Float[Array, "n h w i"], dy: Float[Array, "n h w o"]
) -> Float[Array, "3 3 i o"]:
    """Summed over n."""
    # The images' batch is the contracted axis, so it takes the features' place.
    return lax.conv_general_dilated(
        x, dy, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("CHWN", "IHWO", "HWNC")
    )


@_weight_gradient.def_vmap
def _weight_gradients(
    axis_size: int, is_batched: list[bool], x: Array, dy: Array
) -> tuple[Array, bool]:
    x, dy = (
        a if batched else jnp.broadcast_to(a, (axis_size, *a.shape))
        for a, batched in zip((x, dy), is_batched, strict=True)
    )

    def of_example(arrays: tuple[Array, Array]) -> Array:
        def add_image(total: Array, image: tuple[Array, Array]) -> tuple[Array, None]:
            return total + _of_image(*image), None

        zeros = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]), jnp.float32)
        return lax.scan(add_image, zeros, arrays)[0].astype(x.dtype)

    return lax.map(of_example, (x, dy)), True


def _of_image(
    x: Float[Array, "h w i"], dy: Float[Array, "h w o"]
) -> Float32[Array, "3 3 i o"]:
    """One product over the pixels.

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
