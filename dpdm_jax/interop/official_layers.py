"""Layers of PyTorch code, tensor by tensor, and where each goes in our parameters."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from dpdm_jax.errors import InputError

#: Our parameters of a layer -> the official tensor, and how to transpose that.
Layer = Mapping[str, tuple[str, tuple[int, ...]]]
#: Our layers of a block, by their paths in it -> the official name there, and what it
#: is. Those that are not in our block are passed over.
Block = Mapping[str, tuple[str, Layer]]
#: An official name, the path of our block, and what it is.
Module = tuple[str, tuple[str, ...], Block]

_BIAS = {"bias": ("bias", (0,))}
AFFINE: Layer = {"scale": ("weight", (0,)), **_BIAS}
#: [out, in] -> [in, out]
LINEAR: Layer = {"kernel": ("weight", (1, 0)), **_BIAS}
#: OIHW -> HWIO; of 1x1 convolutions, which are matrices here, the last two axes.
CONVOLUTION: Layer = {"kernel": ("weight", (2, 3, 1, 0)), **_BIAS}
#: A convolution along one axis, [out, in, 1] -> [in, out].
ALONG_ONE_AXIS: Layer = {"kernel": ("weight", (2, 1, 0)), **_BIAS}
#: [in, out] as here.
NETWORK_IN_NETWORK: Layer = {"kernel": ("W", (0, 1)), "bias": ("b", (0,))}
TABLE: Layer = {"embedding": ("weight", (0, 1))}


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


def targets(
    params: Mapping[str, Any], modules: Iterable[Module], allowed: str
) -> dict[str, Target]:
    """Maps official names to our parameters, in the order of the modules.

    Args:
        params: our parameters, or their shapes.
        modules: that they are made of.
        allowed: what the parameters must be of, for messages.

    Raises:
        InputError: some of our parameters have no official name.
    """
    found = dict(_targets(params, modules))
    total = len(jax.tree.leaves(params))
    if len(found) != total:
        raise InputError(
            f"The network has {total} tensors, of which {len(found)} have an official "
            f"name; allowed: {allowed}."
        )
    return found


def _targets(
    params: Mapping[str, Any], modules: Iterable[Module]
) -> Iterator[tuple[str, Target]]:
    for module, path, block in modules:
        for inner, (name, layer) in block.items():
            where = (*path, *inner.split("/")) if inner else path
            for ours, (tensor, axes) in layer.items():
                found = _find(params, (*where, ours))
                if found is not None:
                    full = ".".join(part for part in (module, name, tensor) if part)
                    yield full, Target((*where, ours), found.shape, axes)


def _find(tree: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if name not in tree:
            return None
        tree = tree[name]
    return tree


def at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Returns what lies at a path of a nested dictionary."""
    for name in path:
        tree = tree[name]
    return tree


def alone(module: Mapping[str, Any]) -> Block:
    """Returns a layer as a block of its own, by what parameters it has."""
    if "scale" in module:
        layer = AFFINE
    elif "embedding" in module:
        layer = TABLE
    else:
        layer = CONVOLUTION if module["kernel"].ndim == 4 else LINEAR
    return {"": ("", layer)}


def num_blocks(level: Mapping[str, Any]) -> int:
    """Returns how many blocks a level of a U-Net or an autoencoder has."""
    return sum(name.startswith("block_") for name in level)
