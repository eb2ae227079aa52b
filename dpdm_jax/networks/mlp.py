"""A residual multi-layer perceptron, for images of a few hundred pixels at most."""

import math

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx
from jax.typing import DTypeLike

from dpdm_jax import validate
from dpdm_jax.networks import layers, network
from dpdm_jax.networks.embeddings import positional
from dpdm_jax.networks.normalization import unit_variance


class ResidualMLPBlock(nnx.Module):
    """Normalise, hidden layer shifted by noise level and label, SiLU, back; residual.

    Noise level and label act on the hidden layer directly: under the noise of private
    training a deeper embedding learns too slowly to tell the classes apart.

    Args:
        width: features of the input and of the hidden layer.
        base_width: channels of the positional embedding.
        num_classes: 0 for a network without labels.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        width: int,
        base_width: int,
        num_classes: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make = {"dtype": dtype, "rngs": rngs}
        self.hidden = layers.dense(width, width, **make)
        self.noise = layers.dense(base_width, width, **make)
        if num_classes > 0:
            self.label = layers.embed(num_classes + 1, width, **make)
        self.output = layers.dense(width, width, scale=0.01, **make)
        self.num_classes = num_classes

    def __call__(self, x: jax.Array, noise: jax.Array, label: jax.Array) -> jax.Array:
        """Applies the block: [n, width], [n, base_width], [n] -> [n, width]."""
        h = self.hidden(unit_variance(x)) + self.noise(noise)
        if self.num_classes > 0:
            h = h + self.label(label)
        return x + self.output(nnx.silu(h))


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
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        pixels = math.prod(image_shape)
        make = {"dtype": dtype, "rngs": rngs}
        self.base_width = base_width
        self.input = layers.dense(pixels, hidden_width, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": ResidualMLPBlock(
                    hidden_width, base_width, num_classes, **make
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
            h = block(h, noise, label)
        return self.output(unit_variance(h)).reshape(x.shape).astype(jnp.float32)


def build(
    config: ml_collections.ConfigDict,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> network.Network:
    """Builds the network that a config describes.

    Args:
        config: ``config.network``; reads base_width, hidden_width, num_blocks, dtype.
        image_shape: (h, w, c).
        num_classes: number of classes; 0 for a network without labels.

    Raises:
        InputError: a field is out of range.
    """
    validate.integer("network.base_width", config.base_width, minimum=4)
    validate.integer("network.hidden_width", config.hidden_width, minimum=1)
    validate.integer("network.num_blocks", config.num_blocks, minimum=0)
    validate.one_of("network.dtype", config.dtype, network.DTYPES)
    return network.from_module(
        lambda rngs: MLP(
            image_shape,
            num_classes,
            base_width=config.base_width,
            hidden_width=config.hidden_width,
            num_blocks=config.num_blocks,
            dtype=network.DTYPES[config.dtype],
            rngs=rngs,
        ),
        image_shape,
        num_classes,
    )
