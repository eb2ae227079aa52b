"""A residual multi-layer perceptron, for images of a few hundred pixels at most."""

import math

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.typing import DTypeLike

from dpdm_jax import validate
from dpdm_jax.networks import layers, network
from dpdm_jax.networks.conditioned import ConditionedMLP
from dpdm_jax.networks.embeddings import positional
from dpdm_jax.networks.normalization import unit_variance

# A branch starts small beside the residual stream.
_BRANCH_SCALE = 0.01


class MLP(nnx.Module):
    """Flattens the image and passes it through residual blocks.

    Every weight is used once per noisy image, so that per-example gradients cost
    little: it suits tiny images on a CPU.

    Args:
        image_shape: (h, w, c).
        num_classes: 0 for a network without labels.
        base_width: channels of the positional embedding of the noise level.
        hidden_width: features of the blocks.
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
        pixels = math.prod(image_shape)
        make = {"dtype": dtype, "rngs": rngs}
        self.base_width = base_width
        self.input = layers.dense(pixels, hidden_width, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": ConditionedMLP(
                    hidden_width,
                    hidden_width,
                    base_width,
                    num_classes,
                    condition_gain=condition_gain,
                    scale=_BRANCH_SCALE,
                    **make,
                )
                for i in range(num_blocks)
            }
        )
        self.output = layers.dense(
            hidden_width, pixels, scale=layers.NEARLY_ZERO, **make
        )

    def __call__(self, x: jax.Array, c_noise: jax.Array, label: jax.Array) -> jax.Array:
        """Applies the network: x [n, h, w, c], c_noise [n], label [n] -> like x."""
        noise = positional(c_noise, self.base_width)
        h = self.input(x.reshape(x.shape[0], -1))
        for block in self.blocks.values():
            h = h + block(unit_variance(h), noise, label)
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
    validate.integer("network.hidden_width", config.hidden_width, minimum=1)
    validate.integer("network.num_blocks", config.num_blocks, minimum=0)
    validate.real("network.condition_gain", config.condition_gain, above=0)
    validate.one_of("network.dtype", config.dtype, network.DTYPES)
    return network.from_module(
        lambda rngs: MLP(
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
    )
