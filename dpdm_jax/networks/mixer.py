"""A diffusion MLP-mixer: matrix products between pixels and within each, in turn.

After Tolstikhin et al., 2021 (arXiv 2105.01601), with noise level and label added to
the hidden layers. Every weight acts on all pixels or on all features: few weights,
which gather little noise, and gradients that agree between examples.
"""

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
_BRANCH_SCALE = 0.05


class MixerBlock(nnx.Module):
    """One hidden layer across pixels, then one across features; both residual.

    Args:
        pixels: how many.
        width: features of a pixel.
        base_width: channels of the positional embedding of the noise level.
        num_classes: 0 for a network without labels.
        condition_gain: see ``ConditionedMLP``.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        pixels: int,
        width: int,
        base_width: int,
        num_classes: int,
        *,
        condition_gain: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def branch(size: int) -> ConditionedMLP:
            return ConditionedMLP(
                size,
                2 * size,
                base_width,
                num_classes,
                condition_gain=condition_gain,
                scale=_BRANCH_SCALE,
                dtype=dtype,
                rngs=rngs,
            )

        self.across_pixels = branch(pixels)
        self.across_features = branch(width)

    def __call__(self, x: jax.Array, noise: jax.Array, label: jax.Array) -> jax.Array:
        """Applies the block.

        Args:
            x: [n, pixels, width].
            noise: [n, base_width].
            label: int32 [n].

        Returns:
            [n, pixels, width].
        """
        by_feature = unit_variance(x).swapaxes(1, 2)
        x = x + self.across_pixels(by_feature, noise, label).swapaxes(1, 2)
        return x + self.across_features(unit_variance(x), noise, label)


class Mixer(nnx.Module):
    """Passes pixels, which may be folded patches, through mixer blocks.

    Args:
        image_shape: (h, w, c).
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
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        base_width: int,
        hidden_width: int,
        num_blocks: int,
        condition_gain: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        make = {"dtype": dtype, "rngs": rngs}
        self.base_width = base_width
        self.input = layers.dense(channels, hidden_width, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": MixerBlock(
                    height * width,
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
            condition_gain, dtype.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.

    Raises:
        InputError: a field is out of range.
    """
    validate.integer("network.base_width", config.base_width, minimum=4)
    validate.integer("network.num_blocks", config.num_blocks, minimum=0)
    validate.real("network.condition_gain", config.condition_gain, above=0)
    validate.integer("network.hidden_width", config.hidden_width, minimum=4)
    validate.one_of("network.dtype", config.dtype, network.DTYPES)
    if config.hidden_width % 4:
        raise InputError(
            f"network.hidden_width is {config.hidden_width}; allowed for a mixer: a "
            "multiple of 4."
        )
    return network.from_module(
        lambda rngs: Mixer(
            image_shape,
            num_classes,
            base_width=config.base_width,
            hidden_width=config.hidden_width,
            num_blocks=config.num_blocks,
            condition_gain=config.condition_gain,
            dtype=network.DTYPES[config.dtype],
            rngs=rngs,
        ),
        image_shape,
        num_classes,
    )
