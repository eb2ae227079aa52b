import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.privacy.clipping import clipped_grad
from dpdm_jax.privacy.exact import packing

SHAPES = {"a": (3, 2), "b": (), "c": (80, 70), "d": (0, 4), "e": (7,), "f": (4096,)}


def tree():
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.integers(-9, 9, size=shape), jnp.int32)
        for name, shape in SHAPES.items()
    }


def test_small_arrays_go_together_and_large_ones_alone():
    assert packing.groups([6, 4096, 1, 0, 9999]) == [[1], [4], [0, 2, 3]]
    assert packing.groups([4096]) == [[0]]
    assert packing.groups([]) == []


@pytest.mark.parametrize("shapes_alone", [False, True])
def test_unpacking_undoes_packing(shapes_alone):
    given = tree()
    packed = packing.pack(given)
    assert sorted(vector.size for vector in packed) == [14, 4096, 5600]
    like = jax.eval_shape(tree) if shapes_alone else given
    found = packing.unpack(packed, like)
    assert found.keys() == given.keys()
    for name, leaf in found.items():
        np.testing.assert_array_equal(leaf, given[name])


def test_another_tree_has_other_vectors():
    packed = packing.pack(tree())
    with pytest.raises(ValueError, match="zip"):
        packing.unpack(packed, {"a": jnp.zeros((3, 2))})


@pytest.mark.parametrize("leaves", [4, 12])
def test_a_sum_that_stays_packed_is_not_cut_up(leaves):
    """However many leaves there are, the compiled program slices as often."""
    params = {str(i): jnp.ones((5,)) for i in range(leaves)}

    def loss(params, x):
        return sum(jnp.sum(jnp.tanh(w * x)) for w in params.values())

    grad_fn = clipped_grad(loss, l2_clip_norm=1.0)

    def add(packed, params, x):
        total = packing.unpack(packed, jax.eval_shape(grad_fn.zeros, params))
        return packing.pack(grad_fn(params, x, total=total))

    zeros = packing.pack(grad_fn.zeros(params))
    given = zeros, params, jnp.ones((3, 5))
    compiled = jax.jit(add).lower(*given).compile()
    assert compiled.as_text().count("s32[5]") == 0
    unpack = functools.partial(packing.unpack, like=grad_fn.zeros(params))
    expected = grad_fn(*given[1:])
    for one, other in zip(
        jax.tree.leaves(unpack(compiled(*given))),
        jax.tree.leaves(expected),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
