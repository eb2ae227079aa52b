"""A small diffusion transformer: nearly all matrix products, which suits every device.

After Peebles and Xie, 2023 (arXiv 2212.09748), with noise level and condition added to
the hidden layers in place of adaptive normalisation.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dpdm_jax import validate
from dpdm_jax.conditions import Condition
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import conditioned, layers, network, parts, pixel_blocks
from dpdm_jax.networks.conditioned import ConditionedMLP
from dpdm_jax.networks.normalization import unit_variance

# A branch starts small beside the residual stream.
_BRANCH_SCALE = 0.01


@dataclasses.dataclass(frozen=True)
class Settings(conditioned.Settings):
    """``config.network.transformer``; ``hidden_width`` is of a pixel.

    Attributes:
        num_heads: of the attention, >= 1; ``hidden_width`` is a multiple of it and 4.
    """

    path = "network.transformer"

    num_heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        validate.integer("network.transformer.num_heads", self.num_heads, minimum=1)
        multiple = math.lcm(4, self.num_heads)
        if self.hidden_width % multiple:
            raise InputError(
                f"network.transformer.hidden_width is {self.hidden_width}; allowed "
                f"with {self.num_heads} heads: a multiple of {multiple}."
            )


class TransformerBlock(nnx.Module):
    """Attention between pixels, then a hidden layer on each; both residual.

    Args:
        width: features of a pixel.
        base_width: channels of the positional embedding of the noise level.
        condition: of the examples: class labels, tokens, or none.
        num_heads: divides ``width``.
        condition_gain: see ``ConditionedMLP``.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    role = parts.ATTENTION
    adapted = ("query_key_value", "attended")

    def __init__(
        self,
        width: int,
        base_width: int,
        condition: Condition,
        *,
        num_heads: int,
        condition_gain: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.num_heads = num_heads
        self.query_key_value = layers.dense(width, 3 * width, **make)
        self.attended = layers.dense(width, width, scale=_BRANCH_SCALE, **make)
        self.mlp = ConditionedMLP(
            width,
            2 * width,
            base_width,
            condition,
            condition_gain=condition_gain,
            scale=_BRANCH_SCALE,
            **make,
        )

    def __call__(
        self,
        x: Float[Array, "n pixels width"],
        noise: Float[Array, "n b"],
        condition: Int[Array, " n *tokens"],
    ) -> Float[Array, "n pixels width"]:
        """Applies the block.

        Args:
            x: features of pixels.
            noise: positional embedding of the noise level.
            condition: labels in 0..num_classes, or tokens.

        Returns:
            Features of pixels.
        """
        heads = self.query_key_value(materialize(unit_variance(x)))
        heads = heads.reshape(*x.shape[:2], 3, self.num_heads, -1)
        attended = layers.attend(*heads.transpose(2, 0, 3, 1, 4))
        attended = materialize(attended.swapaxes(1, 2).reshape(x.shape))
        x = materialize(x + self.attended(attended))
        return x + self.mlp(materialize(unit_variance(x)), noise, condition)


def build(
    settings: Settings,
    image_shape: tuple[int, int, int],
    condition: Condition,
    *,
    out_channels: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> network.Network:
    """Builds the network of given settings; arguments as in ``mlp.build``."""
    make_block = functools.partial(TransformerBlock, num_heads=settings.num_heads)
    return pixel_blocks.build(
        make_block, settings, image_shape, condition, out_channels, dtype
    )
