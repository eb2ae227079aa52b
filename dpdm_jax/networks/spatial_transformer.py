"""Transformers over an image's pixels (Rombach et al. 2022, arXiv 2112.10752)."""

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpdm_jax.fusion import materialize
from dpdm_jax.networks import layers, parts, torch_layers
from dpdm_jax.networks.transformer_blocks import Attention, FeedForward

# Of the group normalisation; that of U-Nets around it is another.
_EPSILON = 1e-6


class CrossAttention(Attention):
    """Attention of tokens to those of a context."""

    role = parts.CROSS_ATTENTION


class TransformerBlock(nnx.Module):
    """Attention between tokens, attention to the context, hidden layers; all residual.

    Args:
        width: features of a token.
        context_width: features of a token of the context; None without a context,
            where tokens attend to each other again.
        num_heads: divides ``width``.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self,
        width: int,
        context_width: int | None,
        *,
        num_heads: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}

        def attention(kind: type[Attention], to_width: int) -> Attention:
            return kind(
                width,
                to_width,
                num_heads=num_heads,
                head_channels=width // num_heads,
                **make,
            )

        self.norm_a = layers.layer_norm(width, **make)
        self.self_attention = attention(Attention, width)
        self.norm_b = layers.layer_norm(width, **make)
        if context_width is None:
            self.cross_attention = attention(Attention, width)
        else:
            self.cross_attention = attention(CrossAttention, context_width)
        self.norm_c = layers.layer_norm(width, **make)
        self.feed_forward = FeedForward(width, gated=True, **make)

    def inert(self, tokens: int) -> tuple[str, ...]:
        """Says what does nothing: to a single token all attend alike."""
        if tokens > 1:
            return ()
        return ("norm_b", "cross_attention/query", "cross_attention/key")

    def __call__(
        self, x: Float[Array, "n t w"], context: Float[Array, "n c v"] | None
    ) -> Float[Array, "n t w"]:
        """Applies the block.

        Args:
            x: tokens.
            context: what they attend to besides each other; None for each other again.
        """
        h = materialize(self.norm_a(x))
        x = materialize(x + self.self_attention(h, h))
        h = materialize(self.norm_b(x))
        x = materialize(x + self.cross_attention(h, h if context is None else context))
        return materialize(x + self.feed_forward(materialize(self.norm_c(x))))


class SpatialTransformer(nnx.Module):
    """Blocks on the pixels as tokens, row by row; a residual.

    It has no positions: the convolutions around it tell pixels apart.

    Args:
        channels: of input and output, a multiple of 32.
        context_width: features of a token of the context; None without a context.
        num_heads: divides the channels.
        depth: number of blocks, >= 1.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    role = parts.ATTENTION

    def __init__(
        self,
        channels: int,
        context_width: int | None,
        *,
        num_heads: int,
        depth: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.norm = torch_layers.group_norm(channels, epsilon=_EPSILON, **make)
        self.input = torch_layers.dense(channels, channels, **make)
        self.blocks = nnx.Dict(
            {
                f"block_{i}": TransformerBlock(
                    channels, context_width, num_heads=num_heads, **make
                )
                for i in range(depth)
            }
        )
        self.output = layers.dense(channels, channels, laws=layers.ZERO, **make)

    def __call__(
        self,
        x: Float[Array, "n h w c"],
        context: Float[Array, "n t v"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """Adds to each pixel what the blocks make of all of them.

        Args:
            x: features of images.
            context: tokens of each image; None without a context.
        """
        n, height, width, channels = x.shape
        x = materialize(x)
        h = self.norm(x).reshape(n, height * width, channels)
        h = materialize(self.input(materialize(h)))
        for i in range(len(self.blocks)):
            h = self.blocks[f"block_{i}"](h, context)
        return materialize(x + self.output(h).reshape(x.shape))
