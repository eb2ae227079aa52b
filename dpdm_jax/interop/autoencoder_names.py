"""Names of autoencoders' tensors in public code, and their places in our parameters.

Latent diffusion's code (CompVis) and diffusers' call the same tensors differently, and
count the levels of decoders from different ends.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dpdm_jax.interop.official_layers import (
    AFFINE,
    CONVOLUTION,
    LINEAR,
    TABLE,
    Block,
    Module,
    Target,
    alone,
    at,
    num_blocks,
    targets,
)

_ALLOWED = "the autoencoder of a codec of name kl or vq"


@dataclasses.dataclass(frozen=True)
class _Naming:
    """What a code base calls the parts of both halves.

    Attributes:
        down: name of a level of the encoder, by its number from the finest.
        up: name of a level of the decoder, by that number and how many there are.
        block: name of a residual block in a level, by its number; likewise
            ``attention``.
        downsample: in a level; likewise ``upsample``.
        middle: names of block, attention and block.
        head: names of normalisation and convolution.
        of_block: layers of a residual block.
        of_attention: layers of an attention block.
    """

    down: Callable[[int], str]
    up: Callable[[int, int], str]
    block: Callable[[int], str]
    attention: Callable[[int], str]
    downsample: str
    upsample: str
    middle: tuple[str, str, str]
    head: tuple[str, str]
    of_block: Block
    of_attention: Block


_COMPVIS = _Naming(
    down=lambda i: f"down.{i}",
    up=lambda i, count: f"up.{i}",
    block=lambda j: f"block.{j}",
    attention=lambda j: f"attn.{j}",
    downsample="downsample.conv",
    upsample="upsample.conv",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    head=("norm_out", "conv_out"),
    of_block={
        "norm_a": ("norm1", AFFINE),
        "conv_a": ("conv1", CONVOLUTION),
        "norm_b": ("norm2", AFFINE),
        "conv_b": ("conv2", CONVOLUTION),
        "shortcut": ("nin_shortcut", CONVOLUTION),
    },
    of_attention={
        "norm": ("norm", AFFINE),
        "query": ("q", CONVOLUTION),
        "key": ("k", CONVOLUTION),
        "value": ("v", CONVOLUTION),
        "output": ("proj_out", CONVOLUTION),
    },
)
_DIFFUSERS = _Naming(
    down=lambda i: f"down_blocks.{i}",
    up=lambda i, count: f"up_blocks.{count - 1 - i}",
    block=lambda j: f"resnets.{j}",
    attention=lambda j: f"attentions.{j}",
    downsample="downsamplers.0.conv",
    upsample="upsamplers.0.conv",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    head=("conv_norm_out", "conv_out"),
    of_block={**_COMPVIS.of_block, "shortcut": ("conv_shortcut", CONVOLUTION)},
    of_attention={
        "norm": ("group_norm", AFFINE),
        "query": ("to_q", LINEAR),
        "key": ("to_k", LINEAR),
        "value": ("to_v", LINEAR),
        "output": ("to_out.0", LINEAR),
    },
)


def compvis_names(params: Mapping[str, Any]) -> dict[str, Target]:
    """Maps the names of latent diffusion's code to our parameters.

    Args:
        params: of an autoencoder, or their shapes.

    Returns:
        ``{"encoder.conv_in.weight": Target(...), ...}``.

    Raises:
        InputError: the parameters are of something else.
    """
    return targets(params, _modules(params, _COMPVIS), _ALLOWED)


def diffusers_names(params: Mapping[str, Any]) -> dict[str, Target]:
    """Maps those of diffusers' AutoencoderKL; see ``compvis_names``."""
    return targets(params, _modules(params, _DIFFUSERS), _ALLOWED)


def _modules(params: Mapping[str, Any], naming: _Naming) -> Iterator[Module]:
    for half, side in (("encoder", "down"), ("decoder", "up")):
        if half not in params:
            continue
        inside = params[half]
        for name, path, block in _half(inside, side, naming):
            found = block or alone(at(inside, path))
            yield f"{half}.{name}", (half, *path), found
    for name, ours in (
        ("quant_conv", "to_latent"),
        ("post_quant_conv", "from_latent"),
    ):
        yield name, (ours,), {"": ("", CONVOLUTION)}
    yield "quantize.embedding", ("codes",), {"": ("", TABLE)}


def _half(
    params: Mapping[str, Any], side: str, naming: _Naming
) -> Iterator[tuple[str, tuple[str, ...], Block | None]]:
    """Yields names and paths; None for a layer alone."""
    yield "conv_in", ("stem",), None
    count = len(params[side])
    for i in range(count):
        ours = f"level_{i}"
        level = params[side][ours]
        theirs = naming.down(i) if side == "down" else naming.up(i, count)
        for j in range(num_blocks(level)):
            path = (side, ours, f"block_{j}")
            yield f"{theirs}.{naming.block(j)}", path, naming.of_block
            if f"attention_{j}" in level:
                path = (side, ours, f"attention_{j}")
                yield f"{theirs}.{naming.attention(j)}", path, naming.of_attention
        for resample, name in (
            ("downsample", naming.downsample),
            ("upsample", naming.upsample),
        ):
            if resample in level:
                yield f"{theirs}.{name}", (side, ours, resample), None
    for name, layer in zip(
        naming.middle, ("block_0", "attention", "block_1"), strict=True
    ):
        block = naming.of_attention if layer == "attention" else naming.of_block
        yield name, ("middle", layer), block
    for name, layer in zip(naming.head, ("norm", "conv"), strict=True):
        yield name, ("head", layer), None
