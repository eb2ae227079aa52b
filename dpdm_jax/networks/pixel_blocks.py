"""Networks that pass an image's pixels, as a sequence, through residual blocks."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.typing import DTypeLike

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import layers, network
from dpdm_jax.networks.embeddings import pixel_positions, positional
from dpdm_jax.networks.normalization import unit_variance

#: ``make_block(width, base_width, num_classes, condition_gain=, dtype=, rngs=)`` gives
#: a module that maps x [n, pixels, width], noise [n, base_width] and label int32 [n] to
#: [n, pixels, width].
MakeBlock = Callable[..., nnx.Module]


class PixelBlocks(nnx.Module):
    """Passes pixels, which may be folded patches, through blocks.

    Args:
        make_block: see ``MakeBlock``.
        channels: of a pixel.
        num_classes: 0 for a network without labels.
        base_width: channels of the positional embedding of the noise level.
        hidden_width: features of a pixel, a multiple of 4.
        num_blocks: how many blocks.
        condition_gain: see ``ConditionedMLP``.
        dtype: of the computation; parameters are float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        make_block: MakeBlock,
        channels: int,
        num_classes: int,
        *,
        base_width: int,
        hidden_width: int,
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
                f"block_{i}": make_block(
                    hidden_width,
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
            h = block(materialize(h), noise, label)
        h = materialize(unit_variance(materialize(h)))
        return self.output(h).reshape(x.shape).astype(jnp.float32)


def build(
    make_block: MakeBlock,
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    kind: str,
    multiple: int,
) -> network.Network:
    """Builds the network that a config describes.

    Args:
        make_block: see ``MakeBlock``.
        config: ``config.network``; reads base_width, hidden_width, num_blocks,
            condition_gain, dtype.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.
        kind: of network, as an error calls it: "a mixer".
        multiple: of what hidden_width has to be one; itself one of 4.

    Raises:
        InputError: a field is out of range.
    """
    validate.integer("network.base_width", config.base_width, minimum=4)
    validate.integer("network.num_blocks", config.num_blocks, minimum=0)
    validate.integer("network.hidden_width", config.hidden_width, minimum=4)
    validate.real("network.condition_gain", config.condition_gain, above=0)
    validate.one_of("network.dtype", config.dtype, network.DTYPES)
    if config.hidden_width % multiple:
        raise InputError(
            f"network.hidden_width is {config.hidden_width}; allowed for "
            f"{kind}: a multiple of {multiple}."
        )
    return network.from_module(
        lambda rngs: PixelBlocks(
            make_block,
            image_shape[-1],
            num_classes,
            base_width=config.base_width,
            hidden_width=config.hidden_width,
            num_blocks=config.num_blocks,
            condition_gain=config.condition_gain,
            dtype=network.DTYPES[config.dtype],
            rngs=rngs,
        ),
        image_shape,
    )
