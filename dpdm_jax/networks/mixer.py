"""A diffusion MLP-mixer: matrix products between pixels and within each, in turn.

After Tolstikhin et al., 2021 (arXiv 2105.01601), with noise level and condition
added to the hidden layers. Every weight acts on all pixels or on all features: few
weights, which gather little noise, and gradients that agree between examples.
"""

import dataclasses
import functools

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dpdm_jax.conditions import Condition
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import conditioned, network, pixel_blocks
from dpdm_jax.networks.conditioned import ConditionedMLP
from dpdm_jax.networks.normalization import unit_variance

# A branch starts small beside the residual stream.
_BRANCH_SCALE = 0.05


@dataclasses.dataclass(frozen=True)
class Settings(conditioned.Settings):
    """``config.network.mixer``; ``hidden_width`` is of a pixel, a multiple of 4."""

    path = "network.mixer"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_width % 4:
            raise InputError(
                f"network.mixer.hidden_width is {self.hidden_width}; allowed: a "
                "multiple of 4."
            )


class MixerBlock(nnx.Module):
    """One hidden layer across pixels, then one across features; both residual.

    Args:
        pixels: how many.
        width: features of a pixel.
        base_width: channels of the positional embedding of the noise level.
        condition: of the examples: class labels, tokens, or none.
        condition_gain: see ``ConditionedMLP``.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        pixels: int,
        width: int,
        base_width: int,
        condition: Condition,
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
                condition,
                condition_gain=condition_gain,
                scale=_BRANCH_SCALE,
                dtype=dtype,
                rngs=rngs,
            )

        self.across_pixels = branch(pixels)
        self.across_features = branch(width)

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
        by_feature = materialize(unit_variance(x).swapaxes(1, 2))
        mixed = self.across_pixels(by_feature, noise, condition)
        x = materialize(x + mixed.swapaxes(1, 2))
        return x + self.across_features(materialize(unit_variance(x)), noise, condition)


def build(
    settings: Settings,
    image_shape: tuple[int, int, int],
    condition: Condition,
    *,
    out_channels: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> network.Network:
    """Builds the network of given settings; arguments as in ``mlp.build``."""
    height, width, _ = image_shape
    make_block = functools.partial(MixerBlock, height * width)
    return pixel_blocks.build(
        make_block, settings, image_shape, condition, out_channels, dtype
    )
