import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import awake, random_like

from dpdm_jax.conditions import Labels, Tokens, Unconditional, of_classes
from dpdm_jax.configs import base
from dpdm_jax.errors import InputError
from dpdm_jax.networks import adm, build_network, latent_unet, text_transformer

TEXT = text_transformer.Settings(depth=1, num_heads=2, head_channels=4, positions=3)
PUBLISHED = text_transformer.Settings()
CLASSES = Labels(2)
CAPTIONS = Tokens(length=3, vocabulary=5)
# Of the published text transformer: its unused head on the vocabulary.
HEAD = (1280 + 1) * 30522


@functools.cache
def tiny(condition=CLASSES, shape=(2, 2, 3), **changes):
    fields = {
        "base_channels": 32,
        "channel_multipliers": (1,),
        "num_res_blocks": 1,
        "attention_factors": (1,),
        "num_heads": 2,
        "context_width": 6,
    }
    settings = latent_unet.Settings(**fields | changes)
    return latent_unet.build(settings, TEXT, shape, condition)


def shapes_of(network):
    return network.shapes


def run(network, condition):
    params = random_like(shapes_of(network))
    x = jax.random.normal(jax.random.key(1), (len(condition), 2, 2, 3))
    steps = jnp.linspace(0.0, 999.0, len(condition))
    return functools.partial(jax.jit(network.apply), params, x, steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "shape", "condition", "embedder", "count"),
    [
        (
            {
                "base_channels": 64,
                "channel_multipliers": (1, 2),
                "num_res_blocks": 1,
                "attention_factors": (1, 2),
                "num_heads": 4,
                "scale_shift": True,
                "resample_in_blocks": True,
                "context_width": 5,
            },
            (4, 4, 3),
            Labels(26),
            26 * 5,
            4_606_467,
        ),
        (
            {"null_row": True},
            (16, 16, 3),
            Labels(1000),
            512_512,
            90_290_563,
        ),
        (
            {
                "base_channels": 192,
                "channel_multipliers": (1, 2, 3, 5),
                "attention_factors": (8, 4, 2),
                "num_heads": 1,
            },
            (64, 64, 3),
            Labels(2),
            2 * 512,
            400_920_579,
        ),
        (
            {
                "base_channels": 320,
                "channel_multipliers": (1, 2, 4, 4),
                "attention_factors": (4, 2, 1),
                "context_width": 1280,
            },
            (32, 32, 4),
            Tokens(length=77, vocabulary=30522),
            581_994_042 - HEAD,
            872_300_484,
        ),
    ],
    ids=["mnist", "cifar10", "celeba_hq_class", "celeba_hq_text"],
)
def test_parameter_count_is_the_official_one(fields, shape, condition, embedder, count):
    settings = latent_unet.Settings(**fields)
    network = latent_unet.build(settings, PUBLISHED, shape, condition)
    parts = network.shapes
    of_context = sum(leaf.size for leaf in jax.tree.leaves(parts["context"]))
    assert of_context == embedder
    assert network.num_parameters - of_context == count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "side", "count"),
    [
        ({"base_channels": 192, "head_channels": 32}, 16, 162_314_115),
        (
            {"base_channels": 128, "head_channels": 0, "num_heads": 8},
            32,
            72_172_803,
        ),
    ],
    ids=["celeba_32", "celeba_64"],
)
def test_without_conditions_latents_are_of_the_network_adm(fields, side, count):
    settings = adm.Settings(
        channel_multipliers=(1, 2, 4),
        attention_factors=(4, 2, 1),
        scale_shift=True,
        resample_in_blocks=True,
        **fields,
    )
    assert adm.build(settings, (side, side, 3), 0).num_parameters == count


def test_output_starts_at_zero():
    network = tiny()
    params = network.init(jax.random.key(0))
    x = jnp.ones((2, 2, 2, 3))
    label = jnp.arange(2)
    out = jax.jit(network.apply)(params, x, jnp.arange(2.0), label)
    np.testing.assert_array_equal(out, 0)
    assert not np.any(params["middle"]["attention"]["output"]["kernel"])
    assert np.any(params["middle"]["attention"]["input"]["kernel"])


def test_a_class_changes_the_output_of_its_image_only():
    label = jnp.array([0, 1, 2], jnp.int32)
    apply = run(tiny(), label)
    out = apply(label)
    moved = np.abs(apply(label.at[1].set(0)) - out).max(axis=(1, 2, 3))
    assert moved[1] > 1e-3
    assert moved[[0, 2]].max() < 1e-6
    bad = np.isnan(apply(label.at[0].set(3))).any(axis=(1, 2, 3))
    assert bad.tolist() == [True, False, False]


@pytest.mark.parametrize("null_row", [True, False])
def test_null_label_is_a_row_or_a_token_of_zeros(null_row):
    network = tiny(null_row=null_row)
    rows = shapes_of(network)["context"]["label"]["embedding"].shape
    assert rows == (3 if null_row else 2, 6)
    embed = latent_unet.LabelContext
    params, bind = awake(
        lambda rngs: embed(2, 6, null_row=null_row, dtype=jnp.float32, rngs=rngs)
    )
    context = bind(params)(jnp.array([1, 2], jnp.int32))
    assert context.shape == (2, 1, 6)
    table = params["label"]["embedding"]
    np.testing.assert_array_equal(context[0, 0], table[1])
    np.testing.assert_array_equal(context[1, 0], table[2] if null_row else np.zeros(6))


def test_captions_are_attended_to_token_by_token():
    tokens = jnp.array([[1, 2, 0], [3, 4, 1]], jnp.int32)
    apply = run(tiny(CAPTIONS), tokens)
    out = apply(tokens)
    moved = np.abs(apply(tokens.at[1, 2].set(0)) - out).max(axis=(1, 2, 3))
    assert moved[1] > 1e-4
    assert moved[0] < 1e-6


def test_without_a_condition_pixels_attend_to_each_other():
    network = tiny(Unconditional())
    shapes = shapes_of(network)
    assert "context" not in shapes
    cross = shapes["middle"]["attention"]["blocks"]["block_0"]["cross_attention"]
    assert cross["key"]["kernel"].shape == (32, 32)
    nothing = jnp.zeros(2, jnp.int32)
    assert np.isfinite(run(network, nothing)(nothing)).all()


def test_a_config_builds_the_network_of_each_condition():
    config = base.get_config().network
    config.name = "latent_unet"
    config.latent_unet.update(base_channels=32, channel_multipliers=(1,))
    config.latent_unet.update(attention_factors=(), num_heads=4, context_width=6)
    config.text_transformer.update(dataclasses.asdict(TEXT))
    for condition, part in (
        (of_classes(3), "label"),
        (CAPTIONS, "token"),
        (of_classes(0), None),
    ):
        network = build_network(config, (2, 2, 3), condition, outputs=2)
        context = shapes_of(network).get("context", {})
        assert (part in context) if part else not context
        assert shapes_of(network)["head"]["conv"]["kernel"].shape[-1] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "latent_unet.depth is 0; allowed: an integer >= 1"),
        ({"context_width": 0}, "latent_unet.context_width is 0; allowed"),
        ({"null_row": 1.5}, "latent_unet.null_row is 1.5; allowed: True, False"),
        ({"num_heads": 5}, "latent_unet.num_heads is 5; allowed with attention at 32"),
        ({"base_channels": 40}, "latent_unet.base_channels is 40; allowed: a multip"),
        ({"channel_multipliers": (1, 1, 1)}, "2x2 pixels; .* 3 network.latent_unet.ch"),
        (
            {"condition": Tokens(length=4, vocabulary=5)},
            "positions is 3; allowed for captions of 4 tokens 0 to 4: an integer >= 4",
        ),
        ({"condition": object()}, "network 'latent_unet' reads class labels or capt"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(**changes)
