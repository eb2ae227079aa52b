import jax
import numpy as np

from dpdm_jax import rngs


def data(*args):
    return tuple(np.asarray(jax.random.key_data(rngs.stream(*args))).tolist())


def test_streams_differ_by_seed_name_and_position_and_repeat():
    keys = [
        data(0, "loss"),
        data(1, "loss"),
        data(0, "init"),
        data(0, "loss", 0),
        data(0, "loss", 1),
        data(0, "loss", 0, 1),
        data(0, "loss", 1, 0),
    ]
    assert len(set(keys)) == len(keys)
    assert data(0, "loss", 1, 0) == keys[-1]
