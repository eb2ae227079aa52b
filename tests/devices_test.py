"""Layouts on the devices of this process; others are in training/devices_test.py."""

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax import devices


def test_placed_arrays_are_the_same_arrays():
    key = jax.random.split(jax.random.key(3), 2)
    tree = {"host": np.arange(6).reshape(3, 2), "key": key, "scalar": jnp.float32(2)}
    everywhere = devices.replicated(devices.data_mesh())
    placed = devices.place(tree, everywhere)
    for x in jax.tree.leaves(placed):
        assert x.sharding.is_equivalent_to(everywhere, x.ndim)
    np.testing.assert_array_equal(placed["host"], tree["host"])
    assert placed["scalar"] == 2
    assert placed["scalar"].dtype == jnp.float32
    assert placed["key"].dtype == key.dtype
    np.testing.assert_array_equal(
        jax.random.key_data(placed["key"]), jax.random.key_data(key)
    )
    again = devices.place(placed, everywhere)
    assert all(again[name] is placed[name] for name in tree)


def test_one_process_holds_all_rows():
    divided = devices.divided(devices.data_mesh())
    count = 4 * jax.device_count()
    assert devices.rows_of_this_process(count, divided).tolist() == count * [True]
