import jax
import jax.numpy as jnp
import pytest

from dpdm_jax.models import partition

PARAMS = {
    "network": {"a": {"weight": 1, "bias": 2}, "b": {"weight": 3}},
    "moments": {"mean": 4},
    "scale": 5,
}


@pytest.mark.parametrize(
    ("is_trained", "trained"),
    [
        (lambda path: True, PARAMS),
        (lambda path: False, {}),
        (
            lambda path: path.startswith("network/"),
            {"network": PARAMS["network"]},
        ),
        (
            lambda path: path.endswith("weight") or path == "scale",
            {"network": {"a": {"weight": 1}, "b": {"weight": 3}}, "scale": 5},
        ),
    ],
)
def test_parts_are_disjoint_and_join_to_the_whole(is_trained, trained):
    one, other = partition.split(PARAMS, is_trained)
    assert one == trained
    leaves = jax.tree.leaves(one) + jax.tree.leaves(other)
    assert sorted(leaves) == [1, 2, 3, 4, 5]
    assert partition.join(one, other) == PARAMS
    assert partition.join(other, one) == PARAMS


def test_no_gradient_is_taken_by_what_is_fixed():
    params = jax.tree.map(jnp.float32, PARAMS)
    trained, fixed = partition.split(params, lambda path: path.endswith("weight"))

    def loss(trained):
        return sum(jax.tree.leaves(partition.join(trained, fixed))) ** 2

    assert jax.tree.structure(jax.grad(loss)(trained)) == jax.tree.structure(trained)
