"""All devices as one axis, and arrays laid out over them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

DATA_AXIS = "data"


def data_mesh() -> Mesh:
    """Returns the devices of all processes as a mesh of the one axis ``DATA_AXIS``."""
    return Mesh(np.array(jax.devices()), (DATA_AXIS,))


def divided(mesh: Mesh) -> NamedSharding:
    """The layout of arrays whose first axis is divided over the devices."""
    return NamedSharding(mesh, P(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """The layout of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def spread(mesh: Mesh, shape: Sequence[int]) -> NamedSharding:
    """The layout of an array of which each device holds a part.

    Args:
        mesh: the devices.
        shape: of the array. Its longest axis of those that divide evenly is divided; an
            array without one is held whole by every device.
    """
    sizes = [(size, axis) for axis, size in enumerate(shape) if size % mesh.size == 0]
    if not sizes or not max(sizes)[0]:
        return replicated(mesh)
    longest = max(sizes)[1]
    return NamedSharding(mesh, P(*longest * [None], DATA_AXIS))


def place(tree: Any, sharding: Any) -> Any:
    """Puts arrays onto devices; each process fills its own devices.

    Unlike ``jax.device_put`` it does not compare the values between processes, which
    would exchange all of them and print those that differ, secrets included.

    Args:
        tree: pytree of arrays, typed PRNG keys among them. A process must hold what
            belongs to its devices; the rest of its values does not matter.
        sharding: the layout of all arrays, or a tree of one for each.

    Returns:
        The tree of global arrays.
    """

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array) and _has(x, sharding):
            return x
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(x), sharding)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
        values = to_host(x)
        return jax.make_array_from_callback(
            values.shape, sharding, lambda index: values[index]
        )

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda x: put(x, sharding), tree)
    return jax.tree.map(put, tree, sharding)


def to_host(x: Any) -> np.ndarray:
    """Returns the values of a whole array; all processes call it together.

    Args:
        x: an array, of which each process may hold a part alone.
    """
    if isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated
    ):
        x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)


def _has(x: jax.Array, sharding: NamedSharding) -> bool:
    # P() and P(None) are unequal names of one layout.
    return isinstance(x.sharding, NamedSharding) and x.sharding.is_equivalent_to(
        sharding, x.ndim
    )


def rows_of_this_process(count: int, sharding: NamedSharding) -> np.ndarray:
    """Says which rows of an array this process must hold for ``place``.

    Args:
        count: rows in all.
        sharding: see ``divided``.

    Returns:
        bool [count].
    """
    mine = np.zeros(count, bool)
    for rows in sharding.addressable_devices_indices_map((count,)).values():
        if rows is not None:
            mine[rows] = True
    return mine
