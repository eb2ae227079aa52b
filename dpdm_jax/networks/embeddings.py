"""How a network is told the noise level, and a label or a caption."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, Real, UInt32

from dpdm_jax.networks import layers

# Of ``ngrams``: its features, and tokens of the longest sequences.
_BUCKETS = 512
_LONGEST = 3


def positional(
    c_noise: Float[Array, " n"], channels: int
) -> Float32[Array, "n {channels}"]:
    """Sines and cosines of the noise condition (Vaswani et al. 2017).

    Args:
        c_noise: used as it is (neither scaled nor shifted).
        channels: even number >= 4 of channels.

    Returns:
        All sines first; the frequencies fall from 1 to 1e-4.
    """
    half = channels // 2
    # The exponent is rounded to float32, as PyTorch does: VP conditions on values near
    # 1000, where the last digit of a frequency shows in the sine.
    exponent = -math.log(10_000) / (half - 1) * np.arange(half, dtype=np.float32)
    angle = c_noise[:, None] * np.exp(exponent)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def timestep(steps: Real[Array, " n"], channels: int) -> Float32[Array, "n {channels}"]:
    """Cosines and sines of a step's number (guided-diffusion; Dhariwal, Nichol 2021).

    Args:
        steps: numbers of steps, which need not be whole.
        channels: number of channels >= 2; an odd one gets a last channel of zeros.

    Returns:
        All cosines first; the frequencies fall from 1 to just
        above 1e-4, which ``positional`` does reach.
    """
    half = channels // 2
    # Rounded to float32 where PyTorch does: for steps near 1000 the last digit of a
    # frequency shows. NumPy's exponential of float32 would often miss that digit.
    exponent = np.float32(-math.log(10_000)) * np.arange(half, dtype=np.float32)
    exponent = exponent / np.float32(half)
    frequencies = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = steps.astype(jnp.float32)[:, None] * frequencies
    parts = [jnp.cos(angle), jnp.sin(angle)]
    if channels % 2:
        parts.append(jnp.zeros_like(angle[:, :1]))
    return jnp.concatenate(parts, axis=-1)


def pixel_positions(
    rows: int, columns: int, width: int
) -> Float32[np.ndarray, "{rows}*{columns} {width}"]:
    """Sines and cosines of row and column, constants that need not be learnt.

    Args:
        rows: of the image.
        columns: of the image.
        width: features of a pixel, a multiple of 4.

    Returns:
        One row of features a pixel; the frequencies fall from 1 to 1 / 100.
    """
    frequencies = 100.0 ** -(np.arange(width // 4) / (width // 4))

    def embed(count: int) -> np.ndarray:
        angles = np.arange(count)[:, None] * frequencies
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    by_row = np.repeat(embed(rows), columns, axis=0)
    by_column = np.tile(embed(columns), (rows, 1))
    return np.concatenate([by_row, by_column], axis=1).astype(np.float32)


def ngrams(tokens: Int[Array, "n length"]) -> Float32[Array, "n features"]:
    """Which sequences of 1 to 3 tokens a text has, by feature hashing.

    Each is 1 or -1 in one of 512 features, both as its hash says, so that texts with no
    sequence in common are nearly orthogonal (Weinberger et al. 2009, arXiv
    0902.2206; sequences of bytes as parts of words: Bojanowski et al. 2017, arXiv
    1607.04606).

    Args:
        tokens: of texts. 0 is none, and in no sequence.

    Returns:
        The features, of norm 1; 0 for texts of nothing.
    """
    count, length = tokens.shape
    rows = jnp.arange(count)[:, None]
    found = jnp.zeros((count, _BUCKETS))
    hashed = jnp.zeros((count, length), jnp.uint32)
    is_there = jnp.ones((count, length), bool)
    for n in range(min(_LONGEST, length)):
        last = tokens[:, n:]  # of the sequences that begin at each place
        hashed = _mixed(hashed[:, : length - n] ^ last.astype(jnp.uint32))
        is_there = is_there[:, : length - n] & (last != 0)
        sign = jnp.where(hashed >> 31 == 0, 1.0, -1.0)
        found = found.at[rows, hashed % _BUCKETS].add(jnp.where(is_there, sign, 0.0))
    # How often a sequence occurs says little: blanks and vowels would be most of it.
    found = jnp.clip(found, -1, 1)
    return found / jnp.sqrt(jnp.maximum(jnp.sum(found**2, -1, keepdims=True), 1))


def _mixed(x: UInt32[Array, "n length"]) -> UInt32[Array, "n length"]:
    """Spreads what differs over all bits: a round of a hash by multiplication."""
    x = (x + np.uint32(0x9E3779B9)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 15)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


class BagOfTokens(nnx.Module):
    """Embeds a caption by the sequences of tokens that it has; nothing is the zero.

    What is learnt is one matrix: which sequences there are is no parameter, so that
    words which were seldom or never seen gather no noise of their own.

    Args:
        channels: of the embedding.
        std: initial standard deviation of a caption's embedding.
        dtype: of the computation.
        rngs: see ``layers.dense``.
    """

    def __init__(self, channels: int, *, std: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.rows = layers.embed(_BUCKETS, channels, std=std, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Int[Array, "n length"]) -> Float[Array, "n c"]:
        """Embeds captions, see ``ngrams``."""
        table = jnp.asarray(self.rows.embedding[...], self.rows.dtype)
        return ngrams(tokens).astype(table.dtype) @ table


class NoiseAndLabelEmbedding(nnx.Module):
    """Embeds noise condition and label; the last row of the table is the null label.

    Args:
        base_width: channels of the positional embedding.
        num_classes: number of classes; 0 for a network without labels.
        dtype: of the computation; sines and cosines are taken in float32.
        rngs: see ``layers.dense``.
    """

    def __init__(
        self, base_width: int, num_classes: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.base_width = base_width
        self.num_classes = num_classes
        self.channels = 4 * base_width
        make: layers.Make = {"dtype": dtype, "rngs": rngs}
        if num_classes > 0:
            self.label = layers.embed(num_classes + 1, base_width, **make)
        self.hidden = layers.dense(base_width, self.channels, **make)
        self.output = layers.dense(self.channels, self.channels, **make)

    def __call__(
        self, c_noise: Float[Array, " n"], label: Int[Array, " n"]
    ) -> Float[Array, "n 4*{self.base_width}"]:
        """Embeds a batch.

        Args:
            c_noise: the noise condition.
            label: in 0..num_classes; ignored without labels.

        Returns:
            [n, 4 * base_width].
        """
        embedding = positional(c_noise, self.base_width)
        if self.num_classes > 0:
            embedding = embedding + self.label(label)
        return self.output(nnx.silu(self.hidden(embedding)))
