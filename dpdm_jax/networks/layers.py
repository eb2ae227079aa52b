"""Layers of the networks, each with the law its parameters are drawn from.

A layer's parameters carry an initialisation law in their metadata instead of drawing
values themselves: compiling one random draw per tensor takes longer than the training
steps of a small run, so ``network.from_module`` makes a single draw for all of them.
A law maps ``u``, uniform on (-1, 1) and of the parameter's shape, to initial values.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Key, PRNGKeyArray

from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.networks import convolution, normalization, parts, product

#: Uniform numbers, drawn on the host or traced.
Uniform = Float[Array | np.ndarray, "*shape"]
Law = Callable[[Uniform], Uniform]

#: Key under which a parameter's metadata holds its law.
LAW = "initial_law"

#: Layers that end a residual branch start almost at zero, but not at zero.
NEARLY_ZERO = 1e-10


def fan_average_uniform(scale: float) -> Law:
    """Variance scaling by the mean of fan-in and fan-out (Glorot and Bengio 2010).

    Args:
        scale: factor of the variance, > 0.

    Returns:
        A law of kernels [..., in, out]: uniform on +-sqrt(3 scale / fan), where the
        leading (window) axes multiply both fans.
    """

    def law(u: Uniform) -> Uniform:
        *window, fan_in, fan_out = u.shape
        fan = math.prod(window) * (fan_in + fan_out) / 2
        return math.sqrt(3 * scale / fan) * u

    return law


def unit_normal(u: Uniform) -> Float[Array, "*shape"]:
    """Law N(0, 1), by the inverse of its distribution function."""
    return math.sqrt(2) * jax.scipy.special.erfinv(u)


def zeros(u: Uniform) -> Float32[np.ndarray, "*shape"]:
    """Law that is 0."""
    return np.zeros(u.shape, np.float32)


def ones(u: Uniform) -> Float32[np.ndarray, "*shape"]:
    """Law that is 1."""
    return np.ones(u.shape, np.float32)


class Laws(NamedTuple):
    """Laws of a layer's kernel and of its bias."""

    kernel: Law
    bias: Law


def fan_in_uniform(fan_in: int) -> Laws:
    """PyTorch's own laws of convolutions and linear layers.

    Args:
        fan_in: inputs of one output, > 0.

    Returns:
        Kernel and bias, both uniform on +-1 / sqrt(fan_in).
    """

    def law(u: Uniform) -> Uniform:
        return u / math.sqrt(fan_in)

    return Laws(law, law)


#: Laws of a layer that starts at zero.
ZERO = Laws(zeros, zeros)


class Make(TypedDict):
    """What all layers of a network are made with; see ``dense``."""

    dtype: DTypeLike
    rngs: nnx.Rngs


def _placeholder(key: object, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    del key
    return jnp.zeros(shape, dtype)


_Arrays = TypeVar("_Arrays", bound=tuple[Any, ...])


def _promote_all_but_bias(
    arrays: _Arrays, /, *, dtype: Any = jnp.float32, inexact: bool = True
) -> _Arrays:
    """Leaves the bias in float32, which the layer's output then is, too.

    A bias's gradient is a sum over pixels and noise draws. In bfloat16 it would be
    rounded at every addition and end up wrong by half.
    """
    del inexact  # all arrays are
    *operands, bias = arrays
    return cast(_Arrays, (*(x.astype(dtype) for x in operands), bias))


def parameter(shape: tuple[int, ...], law: Law) -> nnx.Param[Array]:
    """Returns a parameter of a module of one's own, drawn from a law."""
    metadata: Any = {LAW: law}
    return nnx.Param(jnp.zeros(shape), **metadata)


class GroupNorm(nnx.GroupNorm):
    """Made by ``group_norm``."""

    scale: nnx.Param[Array]
    bias: nnx.Param[Array]

    def then_silu(
        self,
        x: Float[Array, "n h w c"],
        modulation: tuple[Float[Array, "n c"], Float[Array, "n c"]] | None = None,
    ) -> Float[Array, "n h w c"]:
        """SiLU of the normalised x, of the layer's dtype.

        Args:
            x: features of images.
            modulation: gain and shift of each image: the SiLU is then that
                of ``normalised * (1 + gain) + shift`` (Perez et al. 2018).
        """
        scale, bias = self.scale[...], self.bias[...]
        if modulation is not None:
            gain, shift = (a.astype(jnp.float32) for a in modulation)
            scale, bias = scale * (1 + gain), bias * (1 + gain) + shift
        return normalization.group_norm_silu(
            x.astype(self.dtype), scale, bias, self.num_groups, self.epsilon
        )


class _Conv(nnx.Conv):
    bias: nnx.Param[Array]
    strides: int
    padding: tuple[tuple[int, int], tuple[int, int]]

    def __call__(
        self, inputs: Float[Array, "n h w i"], out_sharding: None = None
    ) -> Float[Array, "n h2 w2 o"]:
        del out_sharding
        x, kernel, bias = self.promote_dtype(
            (inputs, self.kernel[...], self.bias[...]), dtype=self.dtype
        )
        h = convolution.conv3x3(x, kernel, self.strides, self.padding[0])
        return (h + bias).astype(self.dtype)


class _Linear(nnx.Linear):
    #: See ``adapters.attach``.
    adapter: Callable[[Array], Array] | None = None

    def __call__(
        self, inputs: Float[Array, "*n i"], out_sharding: None = None
    ) -> Float[Array, "*n o"]:
        del out_sharding
        bias = None if self.bias is None else self.bias[...]
        x, kernel, bias = self.promote_dtype(
            (inputs, self.kernel[...], bias), dtype=self.dtype
        )
        h = product.matmul(x, kernel)
        if bias is not None:
            h = h + bias
        if self.adapter is not None:
            h = h + self.adapter(inputs.astype(self.dtype))
        return h.astype(self.dtype)


class _Embed(nnx.Embed):
    role = parts.CONDITION


def conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    scale: float = 1.0,
    laws: Laws | None = None,
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """3x3 convolution [n, h, w, in] -> [n, h, w, out] with bias, zero padded.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        scale: factor of the kernel's initial variance.
        laws: of kernel and bias; None for Glorot's with ``scale``, and zero.
        stride: divides the output's height and width, see ``convolution.conv3x3``.
        padding: likewise.
        dtype: of the computation; parameters are float32.
        rngs: asked for by Flax, not used.

    Returns:
        The layer.
    """
    laws = laws or Laws(fan_average_uniform(scale), zeros)
    return _Conv(
        in_channels,
        out_channels,
        kernel_size=(3, 3),
        strides=stride,
        padding=(padding, padding),
        dtype=dtype,
        promote_dtype=_promote_all_but_bias,
        kernel_init=_placeholder,
        bias_init=_placeholder,
        kernel_metadata={LAW: laws.kernel},
        bias_metadata={LAW: laws.bias},
        rngs=rngs,
    )


def dense(
    in_channels: int,
    out_channels: int,
    *,
    scale: float = 1.0,
    laws: Laws | None = None,
    bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Affine map of the last axis; on images it is a 1x1 convolution.

    Args:
        in_channels: length of the input's last axis.
        out_channels: length of the output's last axis.
        scale: factor of the kernel's initial variance.
        laws: of kernel and bias; None for Glorot's with ``scale``, and zero.
        bias: whether there is one.
        dtype: of the computation; parameters are float32.
        rngs: asked for by Flax, not used.

    Returns:
        The layer.
    """
    laws = laws or Laws(fan_average_uniform(scale), zeros)
    return _Linear(
        in_channels,
        out_channels,
        use_bias=bias,
        dtype=dtype,
        promote_dtype=_promote_all_but_bias,
        kernel_init=_placeholder,
        bias_init=_placeholder,
        kernel_metadata={LAW: laws.kernel},
        bias_metadata={LAW: laws.bias},
        rngs=rngs,
    )


def embed(
    num_embeddings: int,
    channels: int,
    *,
    std: float = 1.0,
    law: Law | None = None,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Embed:
    """Table of normal vectors; an index outside the table gives NaN.

    Args:
        num_embeddings: rows of the table.
        channels: length of a row.
        std: initial standard deviation.
        law: of the table, in place of that; None for normal vectors.
        dtype: of the result; the table is float32.
        rngs: asked for by Flax, not used.

    Returns:
        The layer, int32 [n] -> [n, channels].
    """
    return _Embed(
        num_embeddings,
        channels,
        dtype=dtype,
        embedding_init=_placeholder,
        embedding_metadata={LAW: law or (lambda u: std * unit_normal(u))},
        rngs=rngs,
    )


def group_norm(
    channels: int,
    *,
    num_groups: int | None = None,
    epsilon: float = 1e-6,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> GroupNorm:
    """Group normalisation with a learned affine map.

    It normalises each image by itself, so that no example sees another one: batch
    normalisation would break the privacy analysis.

    Args:
        channels: channels of the input.
        num_groups: must divide the channels; None for min(channels // 4, 32).
        epsilon: added to the variance, > 0.
        dtype: of the result; parameters and statistics are float32.
        rngs: asked for by Flax, not used.

    Returns:
        The layer.

    Raises:
        InputError: the groups don't divide the channels.
    """
    groups = min(channels // 4, 32) if num_groups is None else num_groups
    if groups == 0 or channels % groups:
        widths = (
            "widths of at least 4 that min(width // 4, 32) groups divide, as a "
            "base_width that is a multiple of 32 does"
            if num_groups is None
            else f"multiples of {num_groups}"
        )
        raise InputError(
            f"The network has a layer of {channels} channels; allowed: {widths}."
        )
    return GroupNorm(
        channels,
        groups,
        epsilon=epsilon,
        dtype=dtype,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits next to PyTorch's
        scale_init=_placeholder,
        bias_init=_placeholder,
        scale_metadata={LAW: ones},
        bias_metadata={LAW: zeros},
        rngs=rngs,
    )


def layer_norm(
    width: int, *, epsilon: float = 1e-5, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """Normalisation of the last axis with a learned affine map (Ba et al. 2016).

    Args:
        width: length of the last axis.
        epsilon: added to the variance, > 0; PyTorch's by default.
        dtype: of the result; parameters and statistics are float32.
        rngs: asked for by Flax, not used.

    Returns:
        The layer.
    """
    return nnx.LayerNorm(
        width,
        epsilon=epsilon,
        dtype=dtype,
        use_fast_variance=False,  # as in ``group_norm``
        scale_init=_placeholder,
        bias_init=_placeholder,
        scale_metadata={LAW: ones},
        bias_metadata={LAW: zeros},
        rngs=rngs,
    )


def dropout(
    x: Float[Array, "n h w c"], rate: float, keys: Key[Array, " n"]
) -> Float[Array, "n h w c"]:
    """Sets elements to zero at random, and the others to what keeps the mean.

    Args:
        x: features of images.
        rate: probability that an element is dropped, in [0, 1).
        keys: of the images, so that none changes with the others.

    Returns:
        The features that are left (Srivastava et al. 2014).
    """

    def kept(key: PRNGKeyArray) -> Bool[Array, "h w c"]:
        return jax.random.bernoulli(key, 1.0 - rate, x.shape[1:])

    return jnp.where(jax.vmap(kept)(keys), x / (1.0 - rate), 0)


def caller(*, remat: bool) -> Callable[..., Array]:
    """Returns what calls a block: f(block, *arguments).

    Args:
        remat: whether gradients compute the block's activations anew, which saves their
            memory.
    """
    return nnx.remat(_call) if remat else _call


def _call(block: nnx.Module, *arguments: Array) -> Array:
    return block(*arguments)


def downsample(x: Float[Array, "n h w c"]) -> Float[Array, "n h//2 w//2 c"]:
    """Mean over 2x2 pixels."""
    n, height, width, channels = x.shape
    blocks = x.reshape(n, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4))


def upsample(x: Float[Array, "n h w c"]) -> Float[Array, "n 2*h 2*w c"]:
    """Each pixel becomes 2x2 equal ones."""
    n, height, width, channels = x.shape
    blocks = jnp.broadcast_to(
        x[:, :, None, :, None, :], (n, height, 2, width, 2, channels)
    )
    return blocks.reshape(n, 2 * height, 2 * width, channels)


class ResidualBlock(nnx.Module):
    """BigGAN-style residual block under a noise embedding, also used to resample.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        embedding_channels: length of the noise embedding.
        resample: ``downsample``, ``upsample`` or None.
        dtype: of the computation.
        rngs: see ``dense``.
    """

    role = parts.RESBLOCKS

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        resample: Callable[[Array], Array] | None = None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make: Make = {"dtype": dtype, "rngs": rngs}
        self.resample = resample
        self.norm_a = group_norm(in_channels, **make)
        self.conv_a = conv3x3(in_channels, out_channels, **make)
        self.embedding = dense(embedding_channels, out_channels, **make)
        self.norm_b = group_norm(out_channels, **make)
        self.conv_b = conv3x3(out_channels, out_channels, scale=NEARLY_ZERO, **make)
        self.has_shortcut = in_channels != out_channels or resample is not None
        if self.has_shortcut:
            self.shortcut = dense(in_channels, out_channels, **make)

    def __call__(
        self, x: Float[Array, "n h w i"], embedding: Float[Array, "n e"]
    ) -> Float[Array, "n h2 w2 o"]:
        """Applies the block.

        Args:
            x: [n, h, w, in_channels].
            embedding: [n, embedding_channels].

        Returns:
            [n, h', w', out_channels], of the resampled height and width.
        """
        x = materialize(x)
        h = self.norm_a.then_silu(x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_a(materialize(h))
        shift = self.embedding(nnx.silu(embedding))[:, None, None, :]
        # In float32, as a bias is.
        h = materialize((h.astype(jnp.float32) + shift).astype(h.dtype))
        h = materialize(self.norm_b.then_silu(h))
        h = self.conv_b(h)
        if self.has_shortcut:
            x = self.shortcut(x)
        return materialize((x + h) / math.sqrt(2))


def attend(
    query: Float[Array, "*n q c"],
    key: Float[Array, "*n k c"],
    value: Float[Array, "*n k d"],
) -> Float[Array, "*n q d"]:
    """Averages values by how well their keys fit each query; softmax in float32.

    Args:
        query: what is asked.
        key: what is compared with it.
        value: what is averaged.

    Returns:
        The averages, of the values' dtype.
    """
    logits = jnp.einsum("...qc,...kc->...qk", query, key).astype(jnp.float32)
    weights = jax.nn.softmax(logits / math.sqrt(query.shape[-1]), axis=-1)
    return jnp.einsum("...qk,...kd->...qd", weights.astype(value.dtype), value)


class AttentionBlock(nnx.Module):
    """Single-head self-attention over all pixels, as a residual.

    Args:
        channels: channels of input and output.
        dtype: of the computation; the softmax is in float32.
        rngs: see ``dense``.
    """

    role = parts.ATTENTION
    adapted = ("query", "key", "value", "output")

    def __init__(self, channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        make: Make = {"dtype": dtype, "rngs": rngs}
        self.norm = group_norm(channels, **make)
        self.query = dense(channels, channels, scale=0.1, **make)
        self.key = dense(channels, channels, scale=0.1, **make)
        self.value = dense(channels, channels, scale=0.1, **make)
        self.output = dense(channels, channels, scale=NEARLY_ZERO, **make)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Adds to each pixel what it attends to."""
        n, height, width, channels = x.shape
        x = materialize(x)
        h = self.norm(x).reshape(n, height * width, channels)
        h = self.output(attend(self.query(h), self.key(h), self.value(h)))
        return materialize((x + h.reshape(x.shape)) / math.sqrt(2))


class Head(nnx.Module):
    """What ends a U-Net: normalisation, SiLU and a convolution.

    Args:
        norm: of the U-Net's features.
        conv: from them to the output.
    """

    def __init__(self, norm: GroupNorm, conv: nnx.Conv):
        self.norm = norm
        self.conv = conv

    def __call__(self, x: Float[Array, "n h w c"]) -> Float32[Array, "n h w out"]:
        """Maps features to the network's output."""
        return self.conv(materialize(self.norm.then_silu(x))).astype(jnp.float32)
