"""A discriminator of patches (Isola et al. 2017), for autoencoders on public images.

Its batch normalisation lets images see one another. That is of no concern where nobody
is protected, and is why it must not be used where somebody is.
"""

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.nn import leaky_relu
from jaxtyping import Array, Float, Float32

from dpdm_jax.networks import layers

_WINDOW = 4
_SLOPE = 0.2
_EPSILON = 1e-5
# Of the initial kernels, and of the normalisation's gains around 1.
_STD = 0.02
_MAX_MULTIPLIER = 8


def _normal(u: layers.Uniform) -> Float[Array, "*shape"]:
    return _STD * layers.unit_normal(u)


def _near_one(u: layers.Uniform) -> Float[Array, "*shape"]:
    return 1.0 + _normal(u)


class _Conv(nnx.Module):
    """4x4 convolution, padded by a row of zeros on each side."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        bias: bool,
    ):
        shape = (_WINDOW, _WINDOW, in_channels, out_channels)
        self.stride = stride
        self.kernel = layers.parameter(shape, _normal)
        law = layers.fan_in_uniform(_WINDOW * _WINDOW * in_channels).bias
        self.bias = layers.parameter((out_channels,), law) if bias else None

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h2 w2 o"]:
        h = lax.conv_general_dilated(
            x,
            self.kernel[...],
            (self.stride, self.stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return h if self.bias is None else h + self.bias[...]


class _BatchNorm(nnx.Module):
    """Normalises each channel over images and pixels of the batch."""

    def __init__(self, channels: int):
        self.scale = layers.parameter((channels,), _near_one)
        self.bias = layers.parameter((channels,), layers.zeros)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        mean = jnp.mean(x, (0, 1, 2))
        variance = jnp.mean((x - mean) ** 2, (0, 1, 2))
        normalized = (x - mean) * lax.rsqrt(variance + _EPSILON)
        return normalized * self.scale[...] + self.bias[...]


class Discriminator(nnx.Module):
    """Scores of overlapping patches.

    Args:
        in_channels: channels of the images.
        width: channels of the first layer; doubled by each further one, up to eight
            times.
        num_layers: that halve height and width, >= 1.
    """

    def __init__(self, in_channels: int, width: int, num_layers: int):
        self.first = _Conv(in_channels, width, stride=2, bias=True)
        self.blocks: nnx.Dict[nnx.Dict[nnx.Module]] = nnx.Dict()
        self.num_layers = num_layers
        channels = width
        for i in range(1, num_layers + 1):
            wider = width * min(2**i, _MAX_MULTIPLIER)
            self.blocks[f"block_{i}"] = nnx.Dict(
                conv=_Conv(
                    channels, wider, stride=2 if i < num_layers else 1, bias=False
                ),
                norm=_BatchNorm(wider),
            )
            channels = wider
        self.last = _Conv(channels, 1, stride=1, bias=True)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float32[Array, "n h2 w2 1"]:
        """Maps images in [-1, 1] to scores: high where a patch looks real."""
        h = leaky_relu(self.first(x), _SLOPE)
        for i in range(1, self.num_layers + 1):
            block = self.blocks[f"block_{i}"]
            h = leaky_relu(block["norm"](block["conv"](h)), _SLOPE)
        return self.last(h)


def smallest_side(num_layers: int) -> int:
    """Returns the smallest side of an image that is left with one score."""
    side = 1
    for stride in (1, 1, *(2,) * num_layers):  # from the scores back to the image
        side = (side - 1) * stride + _WINDOW - 2
    return side
