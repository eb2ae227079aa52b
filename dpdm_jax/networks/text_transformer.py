"""A transformer that turns the tokens of captions into a network's context.

Latent diffusion trains it from scratch beside its U-Net (Rombach et al. 2022). It has
learned positions, and no mask: tokens that fill up a caption are tokens like others.
"""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from dpdm_jax import validate
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import layers, parts
from dpdm_jax.networks.transformer_blocks import Attention, FeedForward

# Initial standard deviation of the tables.
_STD = 0.02


@dataclasses.dataclass(frozen=True)
class Settings:
    """``config.network.text_transformer``; the defaults are those of latent diffusion.

    Attributes:
        depth: pairs of an attention and of hidden layers, >= 1.
        num_heads: of the attention, >= 1.
        head_channels: features of a head, >= 1.
        positions: tokens of the longest caption, >= 1.
        remat: whether the backward pass computes the blocks' insides anew, and keeps
            only their inputs: memory for a third more work.

    Raises:
        InputError: a field is out of range.
    """

    depth: int = 32
    num_heads: int = 8
    head_channels: int = 64
    positions: int = 77
    remat: bool = False

    def __post_init__(self) -> None:
        for name in ("depth", "num_heads", "head_channels", "positions"):
            path = f"network.text_transformer.{name}"
            validate.integer(path, getattr(self, name), minimum=1)
        path = "network.text_transformer.remat"
        validate.one_of(path, self.remat, (True, False))


class TextTransformer(nnx.Module):
    """The transformer: see the module's description.

    Args:
        settings: its shape.
        vocabulary: number of different tokens.
        width: features of a token of the context.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    role = parts.CONDITION

    def __init__(
        self,
        settings: Settings,
        vocabulary: int,
        width: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.token = layers.embed(vocabulary, width, std=_STD, **make)
        self.position = layers.embed(settings.positions, width, std=_STD, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": TextBlock(settings, width, **make)
                for i in range(settings.depth)
            }
        )
        self.norm = layers.layer_norm(width, **make)
        self.remat = settings.remat

    def __call__(self, tokens: Int[Array, "n t"]) -> Float[Array, "n t w"]:
        """Embeds captions.

        Args:
            tokens: in [0, vocabulary), at most as many of a caption as positions.

        Returns:
            A token of the context for each.
        """
        position = self.position(jnp.arange(tokens.shape[1]))
        x = materialize(self.token(tokens) + position)
        run = layers.caller(remat=self.remat)
        for i in range(len(self.blocks)):
            x = run(self.blocks[f"block_{i}"], x)
        return self.norm(x)


class TextBlock(nnx.Module):
    """Attention between all tokens, then hidden layers on each; both residual.

    Args:
        settings: of the transformer.
        width: features of a token.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self, settings: Settings, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.norm_a = layers.layer_norm(width, **make)
        self.attention = Attention(
            width,
            width,
            num_heads=settings.num_heads,
            head_channels=settings.head_channels,
            **make,
        )
        self.norm_b = layers.layer_norm(width, **make)
        self.feed_forward = FeedForward(width, gated=False, **make)

    def __call__(self, x: Float[Array, "n t w"]) -> Float[Array, "n t w"]:
        """Maps tokens to tokens."""
        h = materialize(self.norm_a(x))
        x = materialize(x + self.attention(h, h))
        return materialize(x + self.feed_forward(materialize(self.norm_b(x))))
