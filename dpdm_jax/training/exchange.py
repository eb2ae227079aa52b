"""Adding up what each device has summed, by one exchange for all leaves."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from dpdm_jax import devices
from dpdm_jax.devices import DATA_AXIS


def added_up(total: Any) -> Any:
    """Returns the sum over devices, whole on each of them (an all-reduce).

    Args:
        total: pytree of arrays [devices, ...] of one dtype, divided over the devices.

    Returns:
        The same without their first axes.
    """
    leaves, treedef = jax.tree.flatten(total)
    flat = jnp.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)
    summed = jnp.sum(flat, axis=0, dtype=flat.dtype)
    shapes = {i: leaf.shape[1:] for i, leaf in enumerate(leaves)}
    return jax.tree.unflatten(treedef, _cut(summed, shapes).values())


def added_up_in_parts(total: Any, mesh: Mesh) -> Any:
    """Returns the sum over devices, of which each has a part (a reduce-scatter).

    Args:
        total: see ``added_up``.
        mesh: the devices.

    Returns:
        The same without their first axes, laid out as ``devices.spread`` says. What
        does not divide is whole on each device, by an exchange of its own.
    """
    leaves, treedef = jax.tree.flatten(total)
    specs = [devices.spread(mesh, leaf.shape[1:]).spec for leaf in leaves]

    def on_device(leaves: list[jax.Array]) -> list[jax.Array]:
        found: dict[int, jax.Array] = {}
        wholes = [i for i, spec in enumerate(specs) if DATA_AXIS not in spec]
        divided = [i for i, spec in enumerate(specs) if DATA_AXIS in spec]
        # By device, each one's parts of all leaves in a row.
        parts = {
            i: _by_device(leaves[i][0], specs[i].index(DATA_AXIS), mesh.size)
            for i in divided
        }
        if divided:
            flat = jnp.concatenate(
                [part.reshape(mesh.size, -1) for part in parts.values()], axis=1
            )
            summed = lax.psum_scatter(flat, DATA_AXIS)
            shapes = {i: part.shape[1:] for i, part in parts.items()}
            found |= _cut(summed, shapes)
        if wholes:
            flat = jnp.concatenate([leaves[i].reshape(-1) for i in wholes])
            summed = lax.psum(flat, DATA_AXIS)
            found |= _cut(summed, {i: leaves[i].shape[1:] for i in wholes})
        return [found[i] for i in range(len(leaves))]

    summed = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=devices.divided(mesh).spec,
        out_specs=specs,
        check_vma=False,
    )(leaves)
    return jax.tree.unflatten(treedef, summed)


def _by_device(whole: jax.Array, axis: int, parts: int) -> jax.Array:
    """An array's parts along an axis, [parts, ...]."""
    before, size, after = whole.shape[:axis], whole.shape[axis], whole.shape[axis + 1 :]
    cut = whole.reshape(*before, parts, size // parts, *after)
    return jnp.moveaxis(cut, axis, 0)


def _cut(flat: jax.Array, shapes: dict[int, tuple[int, ...]]) -> dict[int, jax.Array]:
    """A vector as arrays of these shapes, one after the other."""
    found, offset = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape)
        found[name] = flat[offset : offset + size].reshape(shape)
        offset += size
    return found
