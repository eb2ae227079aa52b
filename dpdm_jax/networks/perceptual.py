"""The perceptual distance LPIPS (Zhang et al. 2018, arXiv 1801.03924), of VGG16.

Its weights were trained on public images and on people's judgement. Here they are
constants: gradients pass through them to images.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from dpdm_jax.networks import layers
from dpdm_jax.networks.network import Functional, functional

#: Of VGG16: channels of its convolutions, stage by stage; between stages it pools.
STAGES = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
#: Images of smaller sides have no pixel left for the last stage.
SMALLEST_SIDE = 2 ** (len(STAGES) - 1)
# What colours in [-1, 1] are shifted and divided by.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10


class _Conv(nnx.Module):
    def __init__(self, in_channels: int, out_channels: int):
        laws = layers.fan_in_uniform(9 * in_channels)
        self.kernel = layers.parameter((3, 3, in_channels, out_channels), laws.kernel)
        self.bias = layers.parameter((out_channels,), laws.bias)

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w o"]:
        h = lax.conv_general_dilated(
            x,
            self.kernel[...],
            (1, 1),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(h + self.bias[...])


class Perceptual(nnx.Module):
    """The distance of images from one another."""

    def __init__(self) -> None:
        self.stages: nnx.Dict[nnx.Dict[_Conv]] = nnx.Dict()
        channels = 3
        for i, widths in enumerate(STAGES):
            stage = self.stages[f"stage_{i}"] = nnx.Dict()
            for j, width in enumerate(widths):
                stage[f"conv_{j}"] = _Conv(channels, width)
                channels = width
        self.weights = nnx.Dict(
            {
                f"stage_{i}": layers.parameter((widths[-1],), layers.ones)
                for i, widths in enumerate(STAGES)
            }
        )

    def features(self, x: Float[Array, "n h w c"]) -> list[Array]:
        """Returns what each stage sees of images in [-1, 1], by pixels of length 1."""
        h = (jnp.broadcast_to(x, (*x.shape[:3], 3)) - _SHIFT) / _SCALE
        found = []
        for i, widths in enumerate(STAGES):
            if i > 0:
                h = lax.reduce_window(
                    h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
                )
            for j in range(len(widths)):
                h = self.stages[f"stage_{i}"][f"conv_{j}"](h)
            norm = jnp.sqrt(jnp.sum(h**2, axis=-1, keepdims=True))
            found.append(h / (norm + _EPSILON))
        return found

    def __call__(
        self, x: Float[Array, "n h w c"], y: Float[Array, "n h w c"]
    ) -> Float[Array, " n"]:
        """Returns the distance of each image of x, in [-1, 1], from that of y."""
        total = jnp.zeros(len(x))
        for i, (a, b) in enumerate(
            zip(self.features(x), self.features(y), strict=True)
        ):
            weighted = jnp.sum((a - b) ** 2 * self.weights[f"stage_{i}"][...], axis=-1)
            total += jnp.mean(weighted, axis=(1, 2))
        return total


def perceptual() -> Functional[Perceptual]:
    """Returns the distance as pure functions."""
    return functional(lambda rngs: Perceptual())
