"""Networks that pass an image's pixels, as a sequence, through residual blocks."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int

from dpdm_jax.conditions import Condition
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import conditioned, layers, network
from dpdm_jax.networks.embeddings import pixel_positions, positional
from dpdm_jax.networks.normalization import unit_variance

#: ``make_block(width, base_width, condition, condition_gain=, dtype=, rngs=)`` gives a
#: module that maps x [n, pixels, width], noise [n, base_width] and the conditions of n
#: examples to [n, pixels, width].
MakeBlock = Callable[..., nnx.Module]


class PixelBlocks(nnx.Module):
    """Passes pixels, which may be folded patches, through blocks.

    Args:
        make_block: see ``MakeBlock``.
        channels: of a pixel.
        out_channels: of a pixel of the output.
        condition: of the examples: class labels, tokens, or none.
        settings: its shape; ``hidden_width`` is a multiple of 4.
        dtype: of the computation; parameters are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        make_block: MakeBlock,
        channels: int,
        out_channels: int,
        condition: Condition,
        settings: conditioned.Settings,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        hidden_width = settings.hidden_width
        self.base_width = settings.base_width
        self.out_channels = out_channels
        self.input = layers.dense(channels, hidden_width, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": make_block(
                    hidden_width,
                    settings.base_width,
                    condition,
                    condition_gain=settings.condition_gain,
                    **make,
                )
                for i in range(settings.num_blocks)
            }
        )
        self.output = layers.dense(
            hidden_width, out_channels, scale=layers.NEARLY_ZERO, **make
        )

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        c_noise: Float[Array, " n"],
        condition: Int[Array, " n *tokens"],
    ) -> Float32[Array, "n h w out"]:
        """Applies the network to scaled noisy images."""
        noise = positional(c_noise, self.base_width)
        n, height, width, channels = x.shape
        h = self.input(x.reshape(n, height * width, channels))
        h = h + pixel_positions(height, width, h.shape[-1]).astype(h.dtype)
        for block in self.blocks.values():
            h = block(materialize(h), noise, condition)
        h = materialize(unit_variance(materialize(h)))
        h = self.output(h).reshape(n, height, width, self.out_channels)
        return h.astype(jnp.float32)


def build(
    make_block: MakeBlock,
    settings: conditioned.Settings,
    image_shape: tuple[int, int, int],
    condition: Condition,
    out_channels: int | None,
    dtype: DTypeLike,
) -> network.Network:
    """Builds the network of given blocks.

    Args:
        make_block: see ``MakeBlock``.
        settings: its shape.
        image_shape: (h, w, c).
        condition: of the examples: class labels, tokens, or none.
        out_channels: channels of the output; None for those of the image.
        dtype: of the computation.
    """
    channels = image_shape[2]
    return network.from_module(
        lambda rngs: PixelBlocks(
            make_block,
            channels,
            out_channels or channels,
            condition,
            settings,
            dtype=dtype,
            rngs=rngs,
        ),
        image_shape,
    )
