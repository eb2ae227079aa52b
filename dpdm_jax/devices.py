"""All devices as one axis, and arrays laid out over them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Puts arrays onto devices; each process fills its own devices.

    Unlike ``jax.device_put`` it does not compare the values between processes, which
    would exchange all of them and print those that differ, secrets included.

    Args:
        tree: pytree of arrays, typed PRNG keys among them. A process must hold what
            belongs to its devices; the rest of its values does not matter.
        sharding: the layout.

    Returns:
        The tree of global arrays.
    """

    def put(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and _has(x, sharding):
            return x
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = put(jax.random.key_data(x))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))
        values = np.asarray(x)
        return jax.make_array_from_callback(
            values.shape, sharding, lambda index: values[index]
        )

    return jax.tree.map(put, tree)


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
