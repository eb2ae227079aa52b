"""Layers of the U-Nets and autoencoders of public PyTorch code, which start as theirs.

Groups of normalisation are 32 there, whatever the width.
"""

from flax import nnx
from jax.typing import DTypeLike

from dpdm_jax.networks import layers

NUM_GROUPS = 32


def group_norm(
    channels: int, *, epsilon: float = 1e-5, dtype: DTypeLike, rngs: nnx.Rngs
) -> layers.GroupNorm:
    """``layers.group_norm`` of 32 groups, with PyTorch's epsilon by default."""
    return layers.group_norm(
        channels, num_groups=NUM_GROUPS, epsilon=epsilon, dtype=dtype, rngs=rngs
    )


def conv3x3(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    padding: tuple[int, int] = (1, 1),
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """``layers.conv3x3`` that starts as PyTorch's."""
    return layers.conv3x3(
        in_channels,
        out_channels,
        laws=layers.fan_in_uniform(9 * in_channels),
        stride=stride,
        padding=padding,
        dtype=dtype,
        rngs=rngs,
    )


def dense(
    in_channels: int,
    out_channels: int,
    *,
    bias: bool = True,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """``layers.dense`` that starts as PyTorch's."""
    laws = layers.fan_in_uniform(in_channels)
    return layers.dense(
        in_channels, out_channels, laws=laws, bias=bias, dtype=dtype, rngs=rngs
    )
