"""Random parameters for networks, and modules as functions of them."""

import jax
import numpy as np

from dpdm_jax.networks.network import functional


def random_like(tree, size=0.2):
    """Parameters of a size, where a network's own are often zero."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(2)
    return structure.unflatten(
        np.float32(size) * rng.standard_normal(leaf.shape, np.float32)
        for leaf in leaves
    )


def awake(make_module, size=0.2):
    """Random parameters of a module, and the module of given ones."""
    module = functional(make_module)
    shapes = jax.eval_shape(module.init, jax.random.key(0))
    return random_like(shapes, size), module.bind
