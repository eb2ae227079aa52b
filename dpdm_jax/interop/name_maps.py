"""Official names of networks' tensors and their places in our parameters.

The official DPDM network (ours of name ncsnpp) numbers its modules ``all_modules.0, 1,
...`` in the order in which it constructs them; guided-diffusion's U-Net (ours of name
adm) numbers groups of them, ``input_blocks.0, 1, ...``, and so does latent diffusion's
(ours of name latent_unet). Walking our tree in that order gives the numbers for any
shape.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dpdm_jax.errors import InputError
from dpdm_jax.interop.official_layers import (
    AFFINE,
    ALONG_ONE_AXIS,
    CONVOLUTION,
    LINEAR,
    NETWORK_IN_NETWORK,
    TABLE,
    Block,
    Module,
    Target,
    alone,
    at,
    num_blocks,
    targets,
)

#: What the names of latent diffusion's condition begin with, beside its U-Net's.
CONDITION = "cond_stage_model"
#: Of networks that number groups: what reads the image, and what says all of it.
STEM, HEAD = "input_blocks.0.0.weight", "out.2.weight"
#: Of a text transformer.
TOKEN_TABLE = f"{CONDITION}.transformer.token_emb.weight"

_NCSNPP_BLOCK: Block = {
    "norm_a": ("GroupNorm_0", AFFINE),
    "conv_a": ("Conv_0", CONVOLUTION),
    "embedding": ("Dense_0", LINEAR),
    "norm_b": ("GroupNorm_1", AFFINE),
    "conv_b": ("Conv_1", CONVOLUTION),
    "shortcut": ("Conv_2", CONVOLUTION),
}
_NCSNPP_ATTENTION: Block = {
    "norm": ("GroupNorm_0", AFFINE),
    "query": ("NIN_0", NETWORK_IN_NETWORK),
    "key": ("NIN_1", NETWORK_IN_NETWORK),
    "value": ("NIN_2", NETWORK_IN_NETWORK),
    "output": ("NIN_3", NETWORK_IN_NETWORK),
}

# The same of guided-diffusion.
_ADM_BLOCK: Block = {
    "norm_a": ("in_layers.0", AFFINE),
    "conv_a": ("in_layers.2", CONVOLUTION),
    "embedding": ("emb_layers.1", LINEAR),
    "norm_b": ("out_layers.0", AFFINE),
    "conv_b": ("out_layers.3", CONVOLUTION),
    "shortcut": ("skip_connection", CONVOLUTION),
}
_ADM_ATTENTION: Block = {
    "norm": ("norm", AFFINE),
    "query_key_value": ("qkv", ALONG_ONE_AXIS),
    "output": ("proj_out", ALONG_ONE_AXIS),
}

_PARTS = {"embedding", "stem", "down", "middle", "up", "head"}
_ALLOWED = "a network of name ncsnpp, adm or latent_unet"


def official_names(params: Mapping[str, Any]) -> dict[str, Target]:
    """Maps official names to our parameters, in the order of our layers.

    Args:
        params: parameters of a network of name ncsnpp, adm or latent_unet, or their
            shapes (``jax.eval_shape``).

    Returns:
        ``{"all_modules.0.weight": Target(...), ...}``, or guided-diffusion's names,
        ``{"time_embed.0.weight": Target(...), ...}``; those of latent diffusion's
        condition come last and begin with ``CONDITION``.

    Raises:
        InputError: the parameters are not those of such a network.
    """
    if _PARTS - params.keys():
        raise InputError(
            f"The network has the parts {', '.join(params)}; allowed: {_ALLOWED}, the "
            "only ones that official checkpoints hold."
        )
    attention = params["middle"]["attention"]
    is_ncsnpp = "query" in attention
    modules = _ncsnpp_modules(params) if is_ncsnpp else _unet_modules(params)
    return targets(params, modules, _ALLOWED)


def condition_names(params: Mapping[str, Any]) -> dict[str, Target]:
    """Maps the names of latent diffusion's condition to our parameters.

    Args:
        params: of a table of classes or of a text transformer, or their shapes.

    Returns:
        ``{"embedding.weight": Target(...)}``, or the names of the transformer,
        ``{"transformer.token_emb.weight": Target(...), ...}``.

    Raises:
        InputError: the parameters are of something else.
    """
    modules = [("", (), _condition(params))]
    return targets(params, modules, "a table of classes, or a text transformer")


def _ncsnpp_modules(params: Mapping[str, Any]) -> Iterator[Module]:
    for number, path in enumerate(_modules_in_official_order(params)):
        module = at(params, path)
        if "conv_a" in module:
            yield f"all_modules.{number}", path, _NCSNPP_BLOCK
        elif "norm" in module:
            yield f"all_modules.{number}", path, _NCSNPP_ATTENTION
        else:
            yield f"all_modules.{number}", path, alone(module)


def _unet_modules(params: Mapping[str, Any]) -> Iterator[Module]:
    for name, path in _unet_names(params):
        module = at(params, path)
        if "conv_a" in module:
            yield name, path, _ADM_BLOCK
        elif "query_key_value" in module:
            yield name, path, _ADM_ATTENTION
        elif "blocks" in module:
            yield name, path, _transformer(len(module["blocks"]))
        else:
            yield name, path, alone(module)
    if "context" in params:
        yield CONDITION, ("context",), _condition(params["context"])


def _transformer(depth: int) -> Block:
    """Latent diffusion's transformers on pixels."""
    block = {
        "norm": ("norm", AFFINE),
        "input": ("proj_in", CONVOLUTION),
        "output": ("proj_out", CONVOLUTION),
    }
    for i in range(depth):
        theirs, ours = f"transformer_blocks.{i}", f"blocks/block_{i}"
        for name, attention in (("attn1", "self"), ("attn2", "cross")):
            block |= _attention(
                f"{ours}/{attention}_attention", f"{theirs}.{name}", "to_out.0"
            )
        block |= {
            f"{ours}/norm_a": (f"{theirs}.norm1", AFFINE),
            f"{ours}/norm_b": (f"{theirs}.norm2", AFFINE),
            f"{ours}/norm_c": (f"{theirs}.norm3", AFFINE),
            f"{ours}/feed_forward/hidden": (f"{theirs}.ff.net.0.proj", LINEAR),
            f"{ours}/feed_forward/output": (f"{theirs}.ff.net.2", LINEAR),
        }
    return block


def _condition(params: Mapping[str, Any]) -> Block:
    if "label" in params:
        return {"label": ("embedding", TABLE)}
    block = {
        "token": ("transformer.token_emb", TABLE),
        "position": ("transformer.pos_emb.emb", TABLE),
        "norm": ("transformer.norm", AFFINE),
    }
    for i in range(len(params.get("blocks", ()))):
        ours = f"blocks/block_{i}"
        attention, hidden = (
            f"transformer.attn_layers.layers.{number}" for number in (2 * i, 2 * i + 1)
        )
        block |= _attention(f"{ours}/attention", f"{attention}.1", "to_out")
        block |= {
            f"{ours}/norm_a": (f"{attention}.0", AFFINE),
            f"{ours}/norm_b": (f"{hidden}.0", AFFINE),
            f"{ours}/feed_forward/hidden": (f"{hidden}.1.net.0.0", LINEAR),
            f"{ours}/feed_forward/output": (f"{hidden}.1.net.2", LINEAR),
        }
    return block


def _attention(ours: str, theirs: str, output: str) -> Block:
    return {
        f"{ours}/query": (f"{theirs}.to_q", LINEAR),
        f"{ours}/key": (f"{theirs}.to_k", LINEAR),
        f"{ours}/value": (f"{theirs}.to_v", LINEAR),
        f"{ours}/output": (f"{theirs}.{output}", LINEAR),
    }


def _unet_names(params: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Guided-diffusion's names of modules, and their paths in our parameters."""
    yield "time_embed.0", ("embedding", "hidden")
    yield "time_embed.2", ("embedding", "output")
    if "label" in params["embedding"]:
        yield "label_emb", ("embedding", "label")
    yield "input_blocks.0.0", ("stem",)
    num_levels = len(params["down"])
    group = 1
    for i in range(num_levels):
        name = f"level_{i}"
        level = params["down"][name]
        for j in range(num_blocks(level)):
            yield f"input_blocks.{group}.0", ("down", name, f"block_{j}")
            if f"attention_{j}" in level:
                yield f"input_blocks.{group}.1", ("down", name, f"attention_{j}")
            group += 1
        if "downsample" in level:
            inner = "" if "conv_a" in level["downsample"] else ".op"
            yield f"input_blocks.{group}.0{inner}", ("down", name, "downsample")
            group += 1
    for number, layer in enumerate(("block_0", "attention", "block_1")):
        yield f"middle_block.{number}", ("middle", layer)
    group = 0
    for i in reversed(range(num_levels)):
        name = f"level_{i}"
        level = params["up"][name]
        count = num_blocks(level)
        for j in range(count):
            yield f"output_blocks.{group}.0", ("up", name, f"block_{j}")
            position = 1
            if f"attention_{j}" in level:
                yield f"output_blocks.{group}.1", ("up", name, f"attention_{j}")
                position = 2
            if "upsample" in level and j == count - 1:
                inner = "" if "conv_a" in level["upsample"] else ".conv"
                path = ("up", name, "upsample")
                yield f"output_blocks.{group}.{position}{inner}", path
            group += 1
    yield "out.0", ("head", "norm")
    yield "out.2", ("head", "conv")


def _modules_in_official_order(params: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    if "label" in params["embedding"]:
        yield ("embedding", "label")
    yield ("embedding", "hidden")
    yield ("embedding", "output")
    yield ("stem",)
    num_levels = len(params["down"])
    for i in range(num_levels):
        level = f"level_{i}"
        for j in range(num_blocks(params["down"][level])):
            yield ("down", level, f"block_{j}")
            if f"attention_{j}" in params["down"][level]:
                yield ("down", level, f"attention_{j}")
        if "downsample" in params["down"][level]:
            yield ("down", level, "downsample")
    for name in ("block_0", "attention", "block_1"):
        yield ("middle", name)
    for i in reversed(range(num_levels)):
        level = f"level_{i}"
        for j in range(num_blocks(params["up"][level])):
            yield ("up", level, f"block_{j}")
        for name in ("attention", "upsample"):
            if name in params["up"][level]:
                yield ("up", level, name)
    yield ("head", "norm")
    yield ("head", "conv")
