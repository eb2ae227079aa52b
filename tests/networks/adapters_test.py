"""Adapters change nothing at first, lie in their layers and are merged into weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.models.identity import named_leaves
from dpdm_jax.networks import adapters, adm


def tiny(**changes):
    settings = adm.Settings(
        base_channels=32,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_factors=(),
        head_channels=16,
        **changes,
    )
    return adm.build(settings, (2, 2, 1), 2)


def random_like(tree, size, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(size * rng.normal(size=leaf.shape), jnp.float32), tree
    )


@pytest.fixture(scope="module")
def params():
    return random_like(tiny().shapes, 0.2, 0)


@pytest.fixture(scope="module")
def drawn(params):
    return adapters.drawn(params, tiny().parts.adapted, 3, jax.random.key(1))


@pytest.fixture(scope="module")
def trained(params, drawn):
    return adapters.put_in(params, random_like(drawn, 0.5, 1))


def apply(network, params):
    x = jax.random.normal(jax.random.key(2), (2, 2, 2, 1))
    return jax.jit(network.apply)(params, x, jnp.array([1.0, 9.0]), jnp.arange(2))


def test_parameters_are_put_in_and_taken_apart(params, drawn):
    both = adapters.put_in(params, drawn)
    added = named_leaves(both).keys() - named_leaves(params).keys()
    assert added == {
        f"middle/attention/{layer}/adapter/{name}"
        for layer in ("query_key_value", "output")
        for name in "ab"
    }
    assert set(filter(adapters.is_of_one, named_leaves(both))) == added
    again = adapters.taken_apart(both)
    jax.tree.map(np.testing.assert_array_equal, again, (params, drawn))
    assert set(named_leaves(params)) == set(named_leaves(tiny().shapes))


def test_they_start_as_nothing_and_can_learn(params, drawn):
    for layer, adapter in drawn.items():
        inputs, outputs = 32, 96 if layer.endswith("value") else 32
        assert adapter["a"].shape == (inputs, 3)
        assert np.abs(adapter["a"]).max() <= 1 / np.sqrt(inputs)
        assert np.std(adapter["a"]) == pytest.approx(1 / np.sqrt(3 * inputs), rel=0.2)
        assert not adapter["b"].any()
        assert adapter["b"].shape == (3, outputs)
    np.testing.assert_array_equal(
        apply(tiny(), adapters.put_in(params, drawn)), apply(tiny(), params)
    )
    other = adapters.drawn(params, tiny().parts.adapted, 3, jax.random.key(2))
    assert all(np.any(other[layer]["a"] != drawn[layer]["a"]) for layer in drawn)


def test_a_short_side_has_the_rank_that_it_can_have():
    sides = {"wide": (6, 9), "narrow": (6, 2)}
    params = {name: {"kernel": jnp.zeros(sides[name])} for name in sides}
    found = adapters.drawn(params, list(sides), 4, jax.random.key(1))
    shapes = {name: (x["a"].shape, x["b"].shape) for name, x in found.items()}
    assert shapes == {"wide": ((6, 4), (4, 9)), "narrow": ((6, 2), (2, 2))}


@pytest.mark.parametrize("remat", [False, True])
def test_merged_weights_are_the_same_function(params, trained, remat):
    network = tiny(remat=remat)
    out = apply(network, trained)
    assert np.abs(out - apply(network, params)).max() > 0.05
    merged = adapters.merged(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    np.testing.assert_allclose(apply(network, merged), out, rtol=0, atol=1e-5)
    # Nothing but the adapted matrices is touched, and those by A B.
    layer = trained["middle"]["attention"]["output"]
    exact = np.float64(layer["kernel"]) + np.float64(
        layer["adapter"]["a"]
    ) @ np.float64(layer["adapter"]["b"])
    found = merged["middle"]["attention"]["output"]
    np.testing.assert_allclose(found["kernel"], exact, rtol=1e-7)
    assert found["kernel"].dtype == jnp.float32
    np.testing.assert_array_equal(found["bias"], layer["bias"])
    np.testing.assert_array_equal(merged["stem"]["kernel"], params["stem"]["kernel"])


def test_without_adapters_there_is_nothing_to_merge(params):
    jax.tree.map(np.testing.assert_array_equal, adapters.merged(params), params)
