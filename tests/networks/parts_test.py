"""What networks say of their parameters: roles in order, adapters, no gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import base
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.networks import adm, build_network, layers, network, parts


def adm_parts(num_classes=3):
    settings = adm.Settings(
        base_channels=32,
        channel_multipliers=(1, 1),
        num_res_blocks=1,
        attention_factors=(1, 2),
        head_channels=32,
        resample_in_blocks=True,
    )
    return adm.build(settings, (4, 4, 1), num_classes).parts


def test_blocks_are_in_the_order_of_the_network():
    known = adm_parts()
    # Towards coarse levels, the middle, and back: not as their names are sorted.
    assert known.of_role(parts.ATTENTION) == [
        *("down/level_0/attention_0", "down/level_1/attention_0", "middle/attention"),
        *("up/level_1/attention_0", "up/level_1/attention_1"),
        *("up/level_0/attention_0", "up/level_0/attention_1"),
    ]
    blocks = known.of_role(parts.RESBLOCKS)
    coarser = ["down/level_0/block_0", "down/level_0/downsample"]
    assert blocks[:3] == [*coarser, "down/level_1/block_0"]
    assert len(blocks) == 3 + 2 + 5
    assert known.of_role(parts.CONDITION) == ["embedding/label"]
    assert adm_parts(num_classes=0).of_role(parts.CONDITION) == []
    assert known.adapted[:2] == tuple(
        f"down/level_0/attention_0/{layer}" for layer in ("query_key_value", "output")
    )
    assert known.inert == ()


@pytest.mark.parametrize("name", ["adm", "ncsnpp", "transformer", "mlp", "mixer"])
@pytest.mark.parametrize("beside", [0, 2])
def test_what_is_named_is_there(name, beside):
    """With a perceptron beside, too, where parameters lie deeper."""
    config = base.get_config().network
    config.name = name
    config.adm.update(base_channels=32, channel_multipliers=(1,), head_channels=32)
    config.adm.attention_factors = (1,)
    config.ncsnpp.update(base_width=32, channel_multipliers=(1,))
    config.ncsnpp.attention_resolutions = (8,)
    config.low_frequencies.count = beside
    made = build_network(config, (8, 8, 1), of_classes(3))
    names = named_leaves(made.shapes)
    assert made.shapes == jax.eval_shape(made.init, jax.random.key(0))
    assert hash(made) == hash(dataclasses.replace(made))
    known = made.parts
    for path in (*(part.path for part in known.roles), *known.adapted):
        assert any(parts.is_in(name, path) for name in names), path
    for layer in known.adapted:
        assert len(names[f"{layer}/kernel"].shape) == 2
    labels = {name for name in names if "label" in name.split("/")}
    found = known.of_role(parts.CONDITION)
    assert labels == {f"{path}/embedding" for path in found} != set()
    has_attention = name in ("adm", "ncsnpp", "transformer")
    assert bool(known.of_role(parts.ATTENTION)) == has_attention == bool(known.adapted)


class Cross(nnx.Module):
    """Attention of pixels to rows of a table, by the label."""

    role = parts.CROSS_ATTENTION
    adapted = ("query", "key", "value", "output")

    def __init__(self, width, **make):
        self.norm = layers.group_norm(width, num_groups=1, **make)
        for name in self.adapted:
            setattr(self, name, layers.dense(width, width, **make))

    def inert(self, tokens):
        return ("norm", "query", "key") if tokens == 1 else ()

    def __call__(self, x, context):
        query = self.query(self.norm(x))
        attended = layers.attend(query, self.key(context), self.value(context))
        return x + self.output(attended)


class Block(nnx.Module):
    role = parts.ATTENTION

    def __init__(self, width, **make):
        self.inner = Inner(width, **make)


class Inner(nnx.Module):
    """Of the same role as what it is inside of."""

    role = parts.ATTENTION

    def __init__(self, width, **make):
        self.cross = Cross(width, **make)


class Small(nnx.Module):
    """A network with one block, whose condition is a row or two."""

    def __init__(self, tokens, width=4, **make):
        self.tokens = tokens
        self.input = layers.dense(1, width, **make)
        self.table = layers.embed(3, tokens * width, **make)
        self.block = Block(width, **make)
        self.output = layers.dense(width, 1, **make)

    def __call__(self, x, c_noise, label):
        h = self.input(x.reshape(len(x), -1, 1))
        context = self.table(label).reshape(len(x), self.tokens, -1)
        h = self.block.inner.cross(h, context)
        return self.output(jnp.tanh(h)).reshape(x.shape)


def small(tokens):
    return network.from_module(
        lambda rngs: Small(tokens, dtype=jnp.float32, rngs=rngs),
        (2, 2, 1),
        tokens=tokens,
    )


def test_a_module_inside_one_of_its_role_is_no_part_of_its_own():
    known = small(2).parts
    assert known.of_role(parts.ATTENTION) == ["block"]
    assert known.of_role(parts.CROSS_ATTENTION) == ["block/inner/cross"]
    assert known.of_role(parts.CONDITION) == ["table"]


@pytest.mark.parametrize("tokens", [1, 2])
def test_there_is_no_gradient_by_what_is_inert_and_one_by_the_rest(tokens):
    """With one token the softmax is 1, whatever query and key."""
    made = small(tokens)
    leaves, structure = jax.tree.flatten(made.shapes)
    rng = np.random.default_rng(1)
    params = structure.unflatten(rng.normal(size=leaf.shape) for leaf in leaves)
    params = jax.tree.map(jnp.float32, params)
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 1))

    def loss(params):
        return jnp.sum(made.apply(params, x, jnp.ones(3), jnp.arange(3)) ** 2)

    moved = {
        name
        for name, leaf in named_leaves(jax.grad(loss)(params)).items()
        if leaf.any()
    }
    inert = {
        name
        for name in named_leaves(params)
        if any(parts.is_in(name, path) for path in made.parts.inert)
    }
    assert len(inert) == (6 if tokens == 1 else 0)
    # A key's bias shifts all of a query's logits alike, but for rounding.
    never = {"block/inner/cross/key/bias"} - inert
    assert moved - never == set(named_leaves(params)) - inert - never


def test_an_unknown_role_is_an_error_of_the_network():
    class Other(nnx.Module):
        role = "head"

    with pytest.raises(ValueError, match="Other has the unknown role head"):
        parts.of_module(Other())
