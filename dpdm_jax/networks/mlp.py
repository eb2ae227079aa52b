"""A residual multi-layer perceptron, for images of a few hundred pixels at most."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from dpdm_jax.conditions import Condition
from dpdm_jax.networks import conditioned, layers, network
from dpdm_jax.networks.conditioned import ConditionedMLP
from dpdm_jax.networks.embeddings import positional
from dpdm_jax.networks.normalization import unit_variance

# A branch starts small beside the residual stream.
_BRANCH_SCALE = 0.01


@dataclasses.dataclass(frozen=True)
class Settings(conditioned.Settings):
    """``config.network.mlp``."""

    path = "network.mlp"


class MLP(nnx.Module):
    """Flattens the image and passes it through residual blocks.

    Every weight is used once per noisy image, so that per-example gradients cost
    little: it suits tiny images on a CPU.

    Args:
        image_shape: (h, w, c).
        out_channels: channels of the output.
        condition: of the examples: class labels, tokens, or none.
        settings: its shape.
        dtype: of the computation; parameters are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        out_channels: int,
        condition: Condition,
        settings: Settings,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        hidden_width = settings.hidden_width
        self.base_width = settings.base_width
        self.out_channels = out_channels
        self.input = layers.dense(math.prod(image_shape), hidden_width, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": ConditionedMLP(
                    hidden_width,
                    hidden_width,
                    settings.base_width,
                    condition,
                    condition_gain=settings.condition_gain,
                    scale=_BRANCH_SCALE,
                    **make,
                )
                for i in range(settings.num_blocks)
            }
        )
        outputs = math.prod((*image_shape[:2], out_channels))
        self.output = layers.dense(
            hidden_width, outputs, scale=layers.NEARLY_ZERO, **make
        )

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Int[Array, " n *tokens"],
    ) -> Float32[Array, "n h w out"]:
        """Applies the network to scaled noisy images."""
        noise = positional(c_noise, self.base_width)
        h = self.input(x.reshape(x.shape[0], -1))
        for block in self.blocks.values():
            h = h + block(unit_variance(h), noise, condition)
        h = self.output(unit_variance(h))
        return h.reshape(*x.shape[:-1], self.out_channels).astype(jnp.float32)


def build(
    settings: Settings,
    image_shape: tuple[int, int, int],
    condition: Condition,
    *,
    out_channels: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> network.Network:
    """Builds the network of given settings.

    Args:
        settings: its shape.
        image_shape: (h, w, c).
        condition: of the examples: class labels, tokens, or none.
        out_channels: channels of the output; None for those of the image.
        dtype: of the computation; parameters and output are float32.
    """
    return network.from_module(
        lambda rngs: MLP(
            image_shape,
            out_channels or image_shape[2],
            condition,
            settings,
            dtype=dtype,
            rngs=rngs,
        ),
        image_shape,
    )
