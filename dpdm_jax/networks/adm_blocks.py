"""Blocks of the ADM U-Net: residual, attention, and the embedding of step and label."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from dpdm_jax.fusion import materialize
from dpdm_jax.networks import embeddings, layers, parts
from dpdm_jax.networks.torch_layers import conv3x3, dense, group_norm


class StepEmbedding(nnx.Module):
    """Embeds the number of a step.

    Args:
        base_channels: channels of the sines and cosines.
        dtype: of the computation; sines and cosines are taken in float32.
        rngs: see ``layers.dense``.
    """

    def __init__(self, base_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.base_channels = base_channels
        self.channels = 4 * base_channels
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.hidden = dense(base_channels, self.channels, **make)
        self.output = dense(self.channels, self.channels, **make)

    def of_steps(
        self, steps: Float[Array, " n"]
    ) -> Float[Array, "n 4*{self.base_channels}"]:
        """Embeds steps by their numbers, from 0."""
        embedding = embeddings.timestep(steps, self.base_channels)
        return self.output(nnx.silu(self.hidden(embedding)))


class StepAndLabelEmbedding(StepEmbedding):
    """Embeds the step's number and adds the label's row.

    The null label has no row and adds nothing: the last layer's bias is its row.

    Args:
        base_channels: channels of the sines and cosines.
        num_classes: number of classes; 0 for a network without labels.
        dtype: of the computation; sines and cosines are taken in float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self, base_channels: int, num_classes: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        super().__init__(base_channels, dtype=dtype, rngs=rngs)
        self.num_classes = num_classes
        if num_classes > 0:
            self.label = layers.embed(
                num_classes, self.channels, dtype=dtype, rngs=rngs
            )

    def __call__(
        self, steps: Float[Array, " n"], label: Int[Array, " n"]
    ) -> Float[Array, "n 4*{self.base_channels}"]:
        """Embeds a batch.

        Args:
            steps: their numbers, from 0.
            label: in 0..num_classes; ignored without labels. One that is out
                of this range gives NaN.

        Returns:
            [n, 4 * base_channels].
        """
        embedding = self.of_steps(steps)
        if self.num_classes == 0:
            return embedding
        is_null = label == self.num_classes
        row = self.label(jnp.where(is_null, 0, label))
        return embedding + jnp.where(is_null[:, None], 0, row)


class ResidualBlock(nnx.Module):
    """Residual block under the embedding of step and label, also used to resample.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: length of the embedding.
        scale_shift: whether the embedding scales and shifts the second normalisation's
            result; it is added before that normalisation otherwise.
        dropout: probability that a feature in front of the last convolution is dropped
            in training, in [0, 1).
        number: of the block in its network, which tells its dropout's randomness from
            the others'.
        resample: ``layers.downsample``, ``layers.upsample`` or None; behind the first
            normalisation, and on the way past the block.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    role = parts.RESBLOCKS

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        scale_shift: bool,
        dropout: float,
        number: int,
        resample: Callable[[Array], Array] | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.scale_shift = scale_shift
        self.dropout = dropout
        self.number = number
        self.resample = resample
        self.norm_a = group_norm(in_channels, **make)
        self.conv_a = conv3x3(in_channels, out_channels, **make)
        features = 2 * out_channels if scale_shift else out_channels
        self.embedding = dense(embedding_channels, features, **make)
        self.norm_b = group_norm(out_channels, **make)
        self.conv_b = layers.conv3x3(
            out_channels, out_channels, laws=layers.ZERO, **make
        )
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.shortcut = dense(in_channels, out_channels, **make)

    def __call__(
        self,
        x: Float[Array, "n h w i"],
        embedding: Float[Array, "n e"],
        *keys: Key[Array, " n"],
    ) -> Float[Array, "n h2 w2 o"]:
        """Applies the block.

        Args:
            x: [n, h, w, in_channels].
            embedding: [n, embedding_channels].
            *keys: of the images, for dropout; without keys nothing is dropped.

        Returns:
            [n, h', w', out_channels], of the resampled height and width.
        """
        x = materialize(x)
        h = self.norm_a.then_silu(x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_a(materialize(h))
        condition = self.embedding(nnx.silu(embedding))
        if self.scale_shift:
            gain, shift = jnp.split(condition, 2, axis=-1)
            h = self.norm_b.then_silu(materialize(h), (gain, shift))
        else:
            # In float32, as a bias is.
            h = h.astype(jnp.float32) + condition[:, None, None, :]
            h = self.norm_b.then_silu(materialize(h.astype(x.dtype)))
        for each in keys:
            own = jax.vmap(jax.random.fold_in, (0, None))(each, self.number)
            h = layers.dropout(materialize(h), self.dropout, own)
        h = self.conv_b(materialize(h))
        if self.has_shortcut:
            x = self.shortcut(x)
        return materialize(x + h)


class AttentionBlock(nnx.Module):
    """Multi-head self-attention over all pixels, as a residual.

    Args:
        channels: channels of input and output.
        num_heads: divides the channels.
        query_first: whether all heads' queries come first in the projection, then all
            keys, then all values; each head's query, key and value otherwise.
        dtype: of the computation; the softmax is in float32.
        rngs: see ``layers.dense``.
    """

    role = parts.ATTENTION
    adapted = ("query_key_value", "output")

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        query_first: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        self.num_heads = num_heads
        self.query_first = query_first
        self.norm = group_norm(channels, **make)
        self.query_key_value = dense(channels, 3 * channels, **make)
        self.output = layers.dense(channels, channels, laws=layers.ZERO, **make)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Maps [n, h, w, channels] to the same shape."""
        n, height, width, channels = x.shape
        x = materialize(x)
        h = self.norm(x).reshape(n, height * width, channels)
        h = self.query_key_value(materialize(h))
        if self.query_first:
            h = h.reshape(n, height * width, 3, self.num_heads, -1)
            heads = h.transpose(2, 0, 3, 1, 4)
        else:
            h = h.reshape(n, height * width, self.num_heads, 3, -1)
            heads = h.transpose(3, 0, 2, 1, 4)
        attended = layers.attend(*heads).swapaxes(1, 2).reshape(x.shape)
        return materialize(x + self.output(materialize(attended)))
