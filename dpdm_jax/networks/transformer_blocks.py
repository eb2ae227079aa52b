"""Attention between tokens, and the hidden layers on each, of public PyTorch code."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dpdm_jax.fusion import materialize
from dpdm_jax.networks import layers, torch_layers


class Attention(nnx.Module):
    """Multi-head attention of tokens to others (Vaswani et al. 2017).

    Args:
        width: features of the tokens.
        context_width: features of those that they attend to.
        num_heads: each is a block of adjacent features.
        head_channels: features of a head; together they may be more than ``width``.
        dtype: of the computation; the softmax is in float32.
        rngs: see ``layers.dense``.
    """

    adapted = ("query", "key", "value", "output")

    def __init__(
        self,
        width: int,
        context_width: int,
        *,
        num_heads: int,
        head_channels: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        inside = num_heads * head_channels
        self.num_heads = num_heads
        self.query = torch_layers.dense(width, inside, bias=False, **make)
        self.key = torch_layers.dense(context_width, inside, bias=False, **make)
        self.value = torch_layers.dense(context_width, inside, bias=False, **make)
        self.output = torch_layers.dense(inside, width, **make)

    def __call__(
        self, x: Float[Array, "n t w"], context: Float[Array, "n c v"]
    ) -> Float[Array, "n t w"]:
        """Returns what each token attends to.

        Args:
            x: tokens.
            context: those that they attend to.
        """
        heads = (self.query(x), self.key(context), self.value(context))
        attended = layers.attend(*(self._by_head(h) for h in heads)).swapaxes(1, 2)
        return self.output(materialize(attended.reshape(*x.shape[:2], -1)))

    def _by_head(self, x: Float[Array, "n t i"]) -> Float[Array, "n heads t h"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)


class FeedForward(nnx.Module):
    """A hidden layer four times as wide, with exact GELU (Hendrycks and Gimpel 2016).

    Args:
        width: features of input and output.
        gated: whether the GELU is a factor of as many further features (GEGLU; Shazeer
            2020).
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(self, width: int, *, gated: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.gated = gated
        hidden = 4 * width
        self.hidden = torch_layers.dense(width, (1 + gated) * hidden, **make)
        self.output = torch_layers.dense(hidden, width, **make)

    def __call__(self, x: Float[Array, "n t w"]) -> Float[Array, "n t w"]:
        """Applies the layers to each token."""
        h = self.hidden(x)
        if self.gated:
            h, gate = jnp.split(h, 2, axis=-1)
            h = h * _gelu(gate)
        else:
            h = _gelu(h)
        return self.output(materialize(h))


def _gelu(x: Float[Array, "n t h"]) -> Float[Array, "n t h"]:
    # Wide, for its derivative has an exponential.
    wide = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
    return wide.astype(x.dtype)
