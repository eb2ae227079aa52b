"""Where each tensor of an official checkpoint lies in our parameters.

The official DPDM network (ours of name ncsnpp) numbers its modules ``all_modules.0, 1,
...`` in the order in which it constructs them; guided-diffusion's U-Net (ours of name
adm) numbers groups of them, ``input_blocks.0, 1, ...``. Walking our tree in that order
gives the numbers for any shape.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dpdm_jax.errors import InputError

_AFFINE = {"scale": "weight", "bias": "bias"}
_LINEAR = {"kernel": "weight", "bias": "bias"}
_NETWORK_IN_NETWORK = {"kernel": "W", "bias": "b"}

# Of a residual and of an attention block: our layer -> (official layer, its tensors).
_BLOCK_LAYERS = {
    "norm_a": ("GroupNorm_0", _AFFINE),
    "conv_a": ("Conv_0", _LINEAR),
    "embedding": ("Dense_0", _LINEAR),
    "norm_b": ("GroupNorm_1", _AFFINE),
    "conv_b": ("Conv_1", _LINEAR),
    "shortcut": ("Conv_2", _LINEAR),
}
_ATTENTION_LAYERS = {
    "norm": ("GroupNorm_0", _AFFINE),
    "query": ("NIN_0", _NETWORK_IN_NETWORK),
    "key": ("NIN_1", _NETWORK_IN_NETWORK),
    "value": ("NIN_2", _NETWORK_IN_NETWORK),
    "output": ("NIN_3", _NETWORK_IN_NETWORK),
}


# The same of guided-diffusion.
_ADM_BLOCK_LAYERS = {
    "norm_a": ("in_layers.0", _AFFINE),
    "conv_a": ("in_layers.2", _LINEAR),
    "embedding": ("emb_layers.1", _LINEAR),
    "norm_b": ("out_layers.0", _AFFINE),
    "conv_b": ("out_layers.3", _LINEAR),
    "shortcut": ("skip_connection", _LINEAR),
}
_ADM_ATTENTION_LAYERS = {
    "norm": ("norm", _AFFINE),
    "query_key_value": ("qkv", _LINEAR),
    "output": ("proj_out", _LINEAR),
}
# Our layers of attention that are convolutions along one axis there.
_ADM_ALONG_ONE_AXIS = ("query_key_value", "output")

_PARTS = {"embedding", "stem", "down", "middle", "up", "head"}


@dataclasses.dataclass(frozen=True)
class Target:
    """Where one official tensor goes.

    Attributes:
        path: keys of our nested dictionary.
        shape: of our parameter.
        axes: how to transpose the official tensor; the result reshapes to ``shape``
            (a 1x1 convolution is a matrix here).
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def official_shape(self) -> tuple[int, ...]:
        """Shape of the official tensor."""
        padded = (1,) * (len(self.axes) - len(self.shape)) + self.shape
        shape = [0] * len(padded)
        for size, axis in zip(padded, self.axes, strict=True):
            shape[axis] = size
        return tuple(shape)


def official_names(params: Mapping[str, Any]) -> dict[str, Target]:
    """Maps official names to our parameters, in the order of our layers.

    Args:
        params: parameters of an ncsnpp or adm network, or their shapes
            (``jax.eval_shape``).

    Returns:
        ``{"all_modules.0.weight": Target(...), ...}``, or guided-diffusion's names,
        ``{"time_embed.0.weight": Target(...), ...}``.

    Raises:
        InputError: the parameters are not those of such a network.
    """
    if _PARTS - params.keys():
        raise InputError(
            f"The network has the parts {', '.join(params)}; allowed: a network of "
            "name ncsnpp or adm, the only ones that official checkpoints hold."
        )
    is_adm = "query_key_value" in params["middle"]["attention"]
    targets = dict(_adm_targets(params) if is_adm else _ncsnpp_targets(params))
    if len(targets) != len(jax.tree.leaves(params)):
        raise InputError(
            f"The network has {len(jax.tree.leaves(params))} tensors, of which "
            f"{len(targets)} have an official name; allowed: a network of name ncsnpp "
            "or adm."
        )
    return targets


def _ncsnpp_targets(params: Mapping[str, Any]) -> Iterator[tuple[str, Target]]:
    for number, path in enumerate(_modules_in_official_order(params)):
        tensors = _tensors_of(_at(params, path), _BLOCK_LAYERS, _ATTENTION_LAYERS)
        for inner_path, official in tensors:
            shape = _at(params, (*path, *inner_path)).shape
            axes = _axes(inner_path, official, shape)
            target = Target((*path, *inner_path), shape, axes)
            yield f"all_modules.{number}.{official}", target


def _adm_targets(params: Mapping[str, Any]) -> Iterator[tuple[str, Target]]:
    for module_name, path in _adm_modules(params):
        module = _at(params, path)
        for inner_path, official in _tensors_of(
            module, _ADM_BLOCK_LAYERS, _ADM_ATTENTION_LAYERS
        ):
            shape = _at(module, inner_path).shape
            axes = _axes(inner_path, official, shape)
            if inner_path[0] in _ADM_ALONG_ONE_AXIS and inner_path[-1] == "kernel":
                axes = (2, 1, 0)  # [out, in, 1] -> [in, out]
            target = Target((*path, *inner_path), shape, axes)
            yield f"{module_name}.{official}", target


def _adm_modules(params: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
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
        for j in range(_num_blocks(level)):
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
        num_blocks = _num_blocks(level)
        for j in range(num_blocks):
            yield f"output_blocks.{group}.0", ("up", name, f"block_{j}")
            position = 1
            if f"attention_{j}" in level:
                yield f"output_blocks.{group}.1", ("up", name, f"attention_{j}")
                position = 2
            if "upsample" in level and j == num_blocks - 1:
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
        for j in range(_num_blocks(params["down"][level])):
            yield ("down", level, f"block_{j}")
            if f"attention_{j}" in params["down"][level]:
                yield ("down", level, f"attention_{j}")
        if "downsample" in params["down"][level]:
            yield ("down", level, "downsample")
    for name in ("block_0", "attention", "block_1"):
        yield ("middle", name)
    for i in reversed(range(num_levels)):
        level = f"level_{i}"
        for j in range(_num_blocks(params["up"][level])):
            yield ("up", level, f"block_{j}")
        for name in ("attention", "upsample"):
            if name in params["up"][level]:
                yield ("up", level, name)
    yield ("head", "norm")
    yield ("head", "conv")


def _num_blocks(level: Mapping[str, Any]) -> int:
    return sum(name.startswith("block_") for name in level)


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def _tensors_of(
    module: Mapping[str, Any],
    block_layers: Mapping[str, tuple[str, Mapping[str, str]]],
    attention_layers: Mapping[str, tuple[str, Mapping[str, str]]],
) -> list[tuple[tuple[str, ...], str]]:
    """Paths inside a module, and the official names of the tensors there."""
    if "conv_a" in module:
        return _tensors_of_layers(module, block_layers)
    if "norm" in module:
        return _tensors_of_layers(module, attention_layers)
    if "embedding" in module:
        return [(("embedding",), "weight")]
    names = _AFFINE if "scale" in module else _LINEAR
    return [((ours,), official) for ours, official in names.items()]


def _tensors_of_layers(
    module: Mapping[str, Any], layers: Mapping[str, tuple[str, Mapping[str, str]]]
) -> list[tuple[tuple[str, ...], str]]:
    return [
        ((layer, ours), f"{official_layer}.{official}")
        for layer, (official_layer, names) in layers.items()
        if layer in module
        for ours, official in names.items()
    ]


def _axes(
    path: tuple[str, ...], official: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    if path[-1] != "kernel" or official.endswith(".W"):
        return tuple(range(len(shape)))  # vectors, tables and [in, out] matrices
    if len(shape) == 4 or path[0] == "shortcut":
        return (2, 3, 1, 0)  # OIHW -> HWIO
    return (1, 0)  # [out, in] -> [in, out]
