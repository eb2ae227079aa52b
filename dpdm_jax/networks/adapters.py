"""Low-rank adapters of a network's layers (Hu et al. 2021, arXiv 2106.09685).

A layer with weights W and an adapter computes x W + (x A) B. Adapters lie among the
parameters of a network, in their layers, as ``.../adapter/a`` [in, rank] and ``b``
[rank, out]. A network takes parameters with adapters and without; it is made without.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

#: Under which a layer's adapter lies.
NAME = "adapter"
_KERNEL = "kernel"

#: Nested dictionary of arrays.
Params = dict[str, Any]
#: {"a": ..., "b": ...} by the path of its layer.
Adapters = Mapping[str, Params]


class Adapter(nnx.Module):
    """What an adapter adds to its layer's output.

    Args:
        a: float32 [in, rank].
        b: float32 [rank, out].
    """

    def __init__(self, a: Array, b: Array):
        self.a = nnx.Param(a)
        self.b = nnx.Param(b)

    def __call__(self, x: Float[Array, "*n i"]) -> Float[Array, "*n o"]:
        """Applies it, in x's dtype."""
        return x @ self.a[...].astype(x.dtype) @ self.b[...].astype(x.dtype)


def is_of_one(path: str) -> bool:
    """Whether a path is that of a parameter of an adapter."""
    return NAME in path.split("/")


def kernel_of(layer: str) -> str:
    """Returns the path of the matrix of a layer, given by its path."""
    return f"{layer}/{_KERNEL}"


def drawn(
    params: Params, layers: Sequence[str], rank: int, key: PRNGKeyArray
) -> Adapters:
    """Makes adapters that change nothing yet: A is random and B zero.

    Args:
        params: of a network, without adapters.
        layers: paths of those that get one; each has a matrix for a kernel.
        rank: of the products A B; of a layer with fewer inputs or outputs as many as it
            has, since no product has a higher rank.
        key: typed PRNG key.

    Returns:
        The adapters. A is uniform on +-1 / sqrt(in), as PyTorch's layers begin.
    """
    kernels = [_at(params, layer)[_KERNEL] for layer in layers]
    ranks = [min(rank, *kernel.shape) for kernel in kernels]
    total = sum(kernel.shape[0] * r for kernel, r in zip(kernels, ranks, strict=True))
    draw = jax.random.uniform(key, (total,), minval=-1.0)  # one, as of all parameters
    found, start = {}, 0
    for layer, kernel, r in zip(layers, kernels, ranks, strict=True):
        inputs, outputs = kernel.shape
        a = draw[start : start + inputs * r].reshape(inputs, r)
        start += inputs * r
        found[layer] = {"a": a / np.sqrt(inputs), "b": jnp.zeros((r, outputs))}
    return found


def put_in(params: Params, found: Adapters) -> Params:
    """Returns parameters with adapters in their layers."""
    params = _copy(params)
    for layer, adapter in found.items():
        _at(params, layer)[NAME] = adapter
    return params


def taken_apart(params: Params) -> tuple[Params, Adapters]:
    """Undoes ``put_in``."""
    found: dict[str, Params] = {}

    def without(node: Params, path: str) -> Params:
        rest: Params = {}
        for name, value in node.items():
            if name == NAME:
                found[path] = value
            elif isinstance(value, dict):
                rest[name] = without(value, f"{path}/{name}" if path else name)
            else:
                rest[name] = value
        return rest

    return without(params, ""), found


def attach(module: nnx.Module, found: Adapters) -> None:
    """Gives the layers of a network their adapters.

    Args:
        module: the network, which is changed.
        found: the adapters; a layer of ``layers.dense`` heeds its own.
    """
    for path, adapter in found.items():
        layer: Any = functools.reduce(getattr, path.split("/"), module)
        layer.adapter = Adapter(**adapter)


def merged(params: Params) -> Params:
    """Returns the parameters of the same function without adapters: W + A B.

    Computed on the host, product by product in float64 and rounded once, so that it
    gives the same bits on every machine.

    Args:
        params: of a network, with adapters or without; arrays that have values.
    """
    params, found = taken_apart(params)
    for path, adapter in found.items():
        layer = _at(params, path)
        kernel = layer[_KERNEL]
        a, b = (np.asarray(adapter[name], np.float64) for name in ("a", "b"))
        total = np.zeros(kernel.shape)
        for column, row in zip(a.T, b, strict=True):
            total += np.outer(column, row)
        weights = (np.asarray(kernel, np.float64) + total).astype(np.float32)
        layer[_KERNEL] = _like(kernel, weights)
    return params


def _like(array: Array | np.ndarray, values: np.ndarray) -> Array | np.ndarray:
    """Values where an array is: on its devices, all of which hold it whole."""
    if not isinstance(array, jax.Array):
        return values
    return jax.make_array_from_callback(
        values.shape, array.sharding, lambda index: values[index]
    )


def _copy(params: Params) -> Params:
    return {
        name: _copy(value) if isinstance(value, dict) else value
        for name, value in params.items()
    }


def _at(params: Params, path: str) -> Any:
    return functools.reduce(lambda node, name: node[name], path.split("/"), params)
