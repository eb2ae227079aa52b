"""A small diffusion transformer: nearly all matrix products, which suits every device.

After Peebles and Xie, 2023 (arXiv 2212.09748), with noise level and label added to the
hidden layers in place of adaptive normalisation.
"""

import math

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.typing import DTypeLike

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.networks import layers, network
from dpdm_jax.networks.conditioned import ConditionedMLP
from dpdm_jax.networks.embeddings import pixel_positions, positional
from dpdm_jax.networks.normalization import unit_variance

# A branch starts small beside the residual stream.
_BRANCH_SCALE = 0.01


class TransformerBlock(nnx.Module):
    """Attention between pixels, then a hidden layer on each; both residual.

    Args:
        width: features of a pixel.
        num_heads: divides ``width``.
        base_width: channels of the positional embedding of the noise level.
        num_classes: 0 for a network without labels.
        condition_gain: see ``ConditionedMLP``.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        base_width: int,
        num_classes: int,
        *,
        condition_gain: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make = {"dtype": dtype, "rngs": rngs}
        self.num_heads = num_heads
        self.query_key_value = layers.dense(width, 3 * width, **make)
        self.attended = layers.dense(width, width, scale=_BRANCH_SCALE, **make)
        self.mlp = ConditionedMLP(
            width,
            2 * width,
            base_width,
            num_classes,
            condition_gain=condition_gain,
            scale=_BRANCH_SCALE,
            **make,
        )

    def __call__(self, x: jax.Array, noise: jax.Array, label: jax.Array) -> jax.Array:
        """Applies the block.

        Args:
            x: [n, pixels, width].
            noise: [n, base_width].
            label: int32 [n].

        Returns:
            [n, pixels, width].
        """
        heads = self.query_key_value(unit_variance(x))
        heads = heads.reshape(*x.shape[:2], 3, self.num_heads, -1)
        attended = layers.attend(*heads.transpose(2, 0, 3, 1, 4))
        x = x + self.attended(attended.swapaxes(1, 2).reshape(x.shape))
        return x + self.mlp(unit_variance(x), noise, label)


class Transformer(nnx.Module):
    """Passes pixels, which may be folded patches, through transformer blocks.

    Args:
        channels: of a pixel.
        num_classes: 0 for a network without labels.
        base_width: channels of the positional embedding of the noise level.
        hidden_width: features of a pixel, a multiple of 4 and of ``num_heads``.
        num_heads: of the attention.
        num_blocks: how many blocks.
        condition_gain: see ``ConditionedMLP``.
        dtype: of the computation; parameters are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        base_width: int,
        hidden_width: int,
        num_heads: int,
        num_blocks: int,
        condition_gain: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make = {"dtype": dtype, "rngs": rngs}
        self.base_width = base_width
        self.input = layers.dense(channels, hidden_width, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": TransformerBlock(
                    hidden_width,
                    num_heads,
                    base_width,
                    num_classes,
                    condition_gain=condition_gain,
                    **make,
                )
                for i in range(num_blocks)
            }
        )
        self.output = layers.dense(
            hidden_width, channels, scale=layers.NEARLY_ZERO, **make
        )

    def __call__(self, x: jax.Array, c_noise: jax.Array, label: jax.Array) -> jax.Array:
        """Applies the network: x [n, h, w, c], c_noise [n], label [n] -> like x."""
        noise = positional(c_noise, self.base_width)
        n, height, width, channels = x.shape
        h = self.input(x.reshape(n, height * width, channels))
        h = h + pixel_positions(height, width, h.shape[-1]).astype(h.dtype)
        for block in self.blocks.values():
            h = block(h, noise, label)
        return self.output(unit_variance(h)).reshape(x.shape).astype(jnp.float32)


def build(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> network.Network:
    """Builds the network that a config describes.

    Args:
        config: ``config.network``; reads base_width, hidden_width, num_blocks,
            num_heads, condition_gain, dtype.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.

    Raises:
        InputError: a field is out of range.
    """
    validate.integer("network.base_width", config.base_width, minimum=4)
    validate.integer("network.num_blocks", config.num_blocks, minimum=0)
    validate.integer("network.num_heads", config.num_heads, minimum=1)
    validate.integer("network.hidden_width", config.hidden_width, minimum=4)
    validate.real("network.condition_gain", config.condition_gain, above=0)
    validate.one_of("network.dtype", config.dtype, network.DTYPES)
    multiple = math.lcm(4, config.num_heads)
    if config.hidden_width % multiple:
        raise InputError(
            f"network.hidden_width is {config.hidden_width}; allowed for a transformer "
            f"with {config.num_heads} heads: a multiple of {multiple}."
        )
    return network.from_module(
        lambda rngs: Transformer(
            image_shape[-1],
            num_classes,
            base_width=config.base_width,
            hidden_width=config.hidden_width,
            num_heads=config.num_heads,
            num_blocks=config.num_blocks,
            condition_gain=config.condition_gain,
            dtype=network.DTYPES[config.dtype],
            rngs=rngs,
        ),
        image_shape,
        num_classes,
    )
