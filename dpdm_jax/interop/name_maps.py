"""Where each tensor of an official DPDM checkpoint lies in our parameters.

The official network numbers its modules ``all_modules.0, 1, ...`` in the order in which
it constructs them; walking our tree in that order gives the numbers for any shape.
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
    """Maps official names to our parameters, in the official order.

    Args:
        params: parameters of an ncsnpp network, or their shapes (``jax.eval_shape``).

    Returns:
        ``{"all_modules.0.weight": Target(...), ...}``.

    Raises:
        InputError: the parameters are not those of an ncsnpp network.
    """
    if not {"embedding", "stem", "down", "middle", "up", "head"} <= params.keys():
        raise InputError(
            f"The network has the parts {', '.join(params)}; allowed: a network of "
            "name ncsnpp, the only one that official checkpoints hold."
        )
    targets = {}
    for number, path in enumerate(_modules_in_official_order(params)):
        module = _at(params, path)
        if "conv_a" in module:
            tensors = _tensors_of_layers(module, _BLOCK_LAYERS)
        elif "query" in module:
            tensors = _tensors_of_layers(module, _ATTENTION_LAYERS)
        elif "embedding" in module:
            tensors = [(("embedding",), "weight")]
        else:
            names = _AFFINE if "scale" in module else _LINEAR
            tensors = [((ours,), official) for ours, official in names.items()]
        for inner_path, official in tensors:
            shape = _at(module, inner_path).shape
            targets[f"all_modules.{number}.{official}"] = Target(
                (*path, *inner_path), shape, _axes(inner_path, official, shape)
            )
    if len(targets) != len(jax.tree.leaves(params)):
        raise InputError(
            f"The network has {len(jax.tree.leaves(params))} tensors, of which "
            f"{len(targets)} have an official name; allowed: a network of name ncsnpp."
        )
    return targets


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


def _tensors_of_layers(
    module: Mapping[str, Any], layers: Mapping[str, tuple[str, Mapping[str, str]]]
) -> list[tuple[tuple[str, ...], str]]:
    return [
        ((layer, ours), f"{official_layer}.{official}")
        for layer, (official_layer, names) in layers.items()
        if layer in module
        for ours, official in names.items()
    ]


def _axes(path: tuple[str, ...], official: str, shape: tuple[int, ...]) -> tuple:
    if path[-1] != "kernel" or official.endswith(".W"):
        return tuple(range(len(shape)))  # vectors, tables and [in, out] matrices
    if len(shape) == 4 or path[0] == "shortcut":
        return (2, 3, 1, 0)  # OIHW -> HWIO
    return (1, 0)  # [out, in] -> [in, out]
