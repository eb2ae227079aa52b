"""What DP-LDM trains of the U-Nets of latent diffusion, by counts of its code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax import command_line, planning
from dpdm_jax.conditions import Labels, Tokens, Unconditional, of_classes
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model
from dpdm_jax.models.trainable import select
from dpdm_jax.networks import latent_unet, text_transformer
from dpdm_jax.networks.parts import is_in

_CONTEXT = 512
# Widths of CIFAR-10's transformers 9 to 16.
_WIDTHS = 5 * [256] + 3 * [128]
_TEXT = text_transformer.Settings(depth=1, num_heads=2, head_channels=4, positions=3)


def _count(network, selector):
    frozen = select(selector, network).frozen
    leaves = named_leaves(network.shapes)
    return sum(leaf.size for name, leaf in leaves.items() if name not in frozen)


def test_the_output_half_of_cifar10():
    network = latent_unet.build(
        latent_unet.Settings(), _TEXT, (16, 16, 3), of_classes(1001)
    )
    assert len(network.parts.of_role("attention")) == 16
    # The norm before cross-attention, its queries and its keys.
    inert = sum(2 * width + width**2 + _CONTEXT * width for width in _WIDTHS)
    trained = _count(network, "attention:9-16,condition")
    assert trained == 9_275_520 + 1001 * _CONTEXT - inert
    assert _count(network, "condition") == 1001 * _CONTEXT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first", "official"),
    [
        ("mnist_ldm", 1, 1_578_304),
        ("cifar10_ldm", 1, 23_867_520),
        ("cifar10_ldm", 9, 9_275_520),
        ("celeba_hq_ldm", 1, 169_550_400),
    ],
)
def test_blocks_of_attention_have_as_many_weights_as_the_authors(name, first, official):
    """With what never gets a gradient, and without the table of classes."""
    config = command_line.load_config(f"configs/{name}.py")
    problem = planning.public_problem(config)
    network = build_model(config, problem.image_shape, problem.condition).network
    blocks = network.parts.of_role("attention")
    leaves = named_leaves(network.shapes)

    def size(paths):
        return sum(
            leaf.size
            for name, leaf in leaves.items()
            if any(is_in(name, path) for path in paths)
        )

    assert size(blocks[first - 1 :]) == official
    inert = size(
        [
            path
            for path in network.parts.inert
            if any(is_in(path, block) for block in blocks[first - 1 :])
        ]
    )
    selector = f"attention:{first}-{len(blocks)}"
    assert _count(network, selector) == official - inert


@pytest.mark.parametrize(
    ("condition", "tokens"),
    [(Labels(2), 1), (Tokens(length=3, vocabulary=5), 3)],
    ids=["label", "caption"],
)
def test_what_selectors_choose(condition, tokens):
    network = _tiny(condition)
    known = network.parts
    names = named_leaves(network.shapes).keys()

    def chosen(selector):
        found = select(selector, network)
        return names - found.frozen, found.adapted

    cross, _ = chosen("cross_attention")
    ends = {name.rpartition("cross_attention/")[2] for name in cross}
    of_one = {"value/kernel", "output/kernel", "output/bias"}
    asked = set() if tokens == 1 else {"query/kernel", "key/kernel"}
    assert ends == of_one | asked
    attention = known.of_role("attention")
    assert {name.partition("/blocks/")[0] for name in cross} == {*attention}
    blocks, _ = chosen("resblocks")
    assert blocks == {
        name
        for name in names
        if any(is_in(name, path) for path in known.of_role("resblocks"))
    }
    assert not any("attention" in name or "context" in name for name in blocks)
    some, _ = chosen("attention:2-3")
    assert {path for path in attention for name in some if is_in(name, path)} == {
        *attention[1:3]
    }
    assert all(any(is_in(name, path) for path in attention[1:3]) for name in some)
    in_full, adapted = chosen("lora:2")
    assert in_full == chosen("condition")[0]
    layers = {path.rpartition("/block_0/")[2] for path in adapted}
    of_image = {
        f"self_attention/{name}" for name in ("query", "key", "value", "output")
    }
    of_context = {f"cross_attention/{name}" for name in ("value", "output")}
    if tokens > 1:
        of_context |= {"cross_attention/query", "cross_attention/key"}
    assert layers == of_image | of_context


def _tiny(condition):
    settings = latent_unet.Settings(
        base_channels=32,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_factors=(1,),
        num_heads=2,
        context_width=6,
    )
    return latent_unet.build(settings, _TEXT, (2, 2, 3), condition)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "value"),
    [
        (Labels(2), jnp.array([1])),
        (Tokens(length=3, vocabulary=5), jnp.array([[1, 2, 3]])),
        (Unconditional(), jnp.array([0])),
    ],
    ids=["label", "caption", "none"],
)
def test_what_is_left_out_has_no_gradient(condition, value):
    network = _tiny(condition)
    params = random_like(network.shapes)
    x = jnp.ones((1, 2, 2, 3)) * jnp.arange(1, 5).reshape(1, 2, 2, 1)

    def loss(params):
        return jnp.sum(network.apply(params, x, jnp.array([3.0]), value) ** 2)

    grads = named_leaves(jax.grad(loss)(params))
    frozen = select("all", network).frozen
    zero = {name for name, grad in grads.items() if not np.any(np.asarray(grad))}
    assert frozen <= zero
    assert bool(frozen) == isinstance(condition, Labels)
    # What stays is trained to some end: the values that the token gives, above all.
    assert not {name for name in zero if name.endswith("cross_attention/value/kernel")}


def test_cross_attention_is_of_a_context():
    assert not _tiny(Unconditional()).parts.of_role("cross_attention")
    assert len(_tiny(Labels(2)).parts.of_role("cross_attention")) == len(
        _tiny(Labels(2)).parts.of_role("attention")
    )
