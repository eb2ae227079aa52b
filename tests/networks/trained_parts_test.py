"""What DP-LDM trains of the U-Nets of latent diffusion, by counts of its code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import random_like

from dpdm_jax.conditions import Labels, Tokens, Unconditional, of_classes
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.trainable import select
from dpdm_jax.networks import latent_unet, text_transformer

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
