import functools

import jax
import numpy as np
import pytest

from dpdm_jax.conditions import Labels, Tokens, Unconditional
from dpdm_jax.errors import InputError
from dpdm_jax.interop import name_maps
from dpdm_jax.interop.convert import convert
from dpdm_jax.networks import Network, adm, latent_unet, ncsnpp, text_transformer


@functools.cache
def make_network(num_classes=3, **changes):
    fields = {
        "base_width": 4,
        "channel_multipliers": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (4,),
    }
    settings = ncsnpp.Settings(**fields | changes)
    return ncsnpp.build(settings, (8, 8, 1), num_classes)


@functools.cache
def make_adm(num_classes=3, image_shape=(8, 8, 1), **changes):
    fields = {"base_channels": 32, "channel_multipliers": (1, 2), "head_channels": 32}
    fields |= {"num_res_blocks": 1, "attention_factors": (2,)}
    return adm.build(adm.Settings(**fields | changes), image_shape, num_classes)


@functools.cache
def make_latent_unet(condition=None, **changes):
    fields = {"base_channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    fields |= {"attention_factors": (2,), "num_heads": 4, "context_width": 6}
    settings = latent_unet.Settings(**fields | changes)
    text = text_transformer.Settings(depth=2, num_heads=3, head_channels=4, positions=5)
    return latent_unet.build(settings, text, (4, 4, 3), condition or Labels(3))


CAPTIONS = Tokens(length=5, vocabulary=7)


def targets_of(network):
    return name_maps.official_names(network.shapes)


def random_state_dict(network):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=target.official_shape).astype(np.float32)
        for name, target in targets_of(network).items()
    }


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (make_network, {}),
        (make_network, {"num_classes": 0}),
        (make_network, {"num_res_blocks": 3, "attention_resolutions": ()}),
        (
            make_network,
            {"channel_multipliers": (1, 2, 1, 2), "attention_resolutions": (1, 2, 8)},
        ),
        (make_adm, {}),
        (
            make_adm,
            {"num_classes": 0, "resample_in_blocks": True, "attention_factors": (1,)},
        ),
        (
            make_adm,
            {"num_res_blocks": 2, "channel_multipliers": (1,), "attention_factors": ()},
        ),
        (make_latent_unet, {"depth": 2}),
        (make_latent_unet, {"condition": CAPTIONS, "resample_in_blocks": True}),
        (make_latent_unet, {"condition": Unconditional()}),
    ],
)
def test_every_parameter_has_exactly_one_official_tensor(make, changes):
    network = make(**changes)
    params = convert(random_state_dict(network), network)
    shapes = network.shapes
    assert jax.tree.structure(params) == jax.tree.structure(shapes)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda s: s.shape, shapes)


def test_modules_are_numbered_in_the_order_of_the_official_constructor():
    paths = {
        name: "/".join(target.path)
        for name, target in targets_of(make_network()).items()
    }
    assert paths["all_modules.0.weight"] == "embedding/label/embedding"
    assert paths["all_modules.3.weight"] == "stem/kernel"
    assert paths["all_modules.4.Conv_0.weight"] == "down/level_0/block_0/conv_a/kernel"
    assert paths["all_modules.5.Conv_2.bias"] == "down/level_0/downsample/shortcut/bias"
    assert paths["all_modules.7.NIN_3.W"] == "down/level_1/attention_0/output/kernel"
    assert paths["all_modules.9.NIN_0.b"] == "middle/attention/query/bias"
    assert (
        paths["all_modules.13.GroupNorm_0.weight"] == "up/level_1/attention/norm/scale"
    )
    assert (
        paths["all_modules.14.Dense_0.weight"] == "up/level_1/upsample/embedding/kernel"
    )
    assert paths["all_modules.18.bias"] == "head/conv/bias"
    unlabelled = targets_of(make_network(num_classes=0))
    assert unlabelled["all_modules.0.weight"].path == ("embedding", "hidden", "kernel")


def test_modules_of_guided_diffusion_have_its_names():
    paths = {n: "/".join(t.path) for n, t in targets_of(make_adm()).items()}
    expected = {
        "time_embed.0.weight": "embedding/hidden/kernel",
        "time_embed.2.bias": "embedding/output/bias",
        "label_emb.weight": "embedding/label/embedding",
        "input_blocks.0.0.weight": "stem/kernel",
        "input_blocks.1.0.in_layers.0.weight": "down/level_0/block_0/norm_a/scale",
        "input_blocks.2.0.op.weight": "down/level_0/downsample/kernel",
        "input_blocks.3.0.emb_layers.1.bias": "down/level_1/block_0/embedding/bias",
        "input_blocks.3.0.skip_connection.bias": "down/level_1/block_0/shortcut/bias",
        "input_blocks.3.1.qkv.bias": "down/level_1/attention_0/query_key_value/bias",
        "middle_block.0.out_layers.3.weight": "middle/block_0/conv_b/kernel",
        "middle_block.1.proj_out.weight": "middle/attention/output/kernel",
        "middle_block.2.out_layers.0.bias": "middle/block_1/norm_b/bias",
        "output_blocks.1.1.norm.weight": "up/level_1/attention_1/norm/scale",
        "output_blocks.1.2.conv.weight": "up/level_1/upsample/kernel",
        "output_blocks.2.0.in_layers.2.weight": "up/level_0/block_0/conv_a/kernel",
        "out.0.weight": "head/norm/scale",
        "out.2.weight": "head/conv/kernel",
    }
    assert {name: paths.get(name) for name in expected} == expected
    for changes, name in (
        ({"attention_factors": ()}, "output_blocks.1.1.conv.weight"),
        ({"resample_in_blocks": True}, "output_blocks.1.2.in_layers.0.weight"),
        ({"resample_in_blocks": True}, "input_blocks.2.0.emb_layers.1.weight"),
    ):
        assert name in targets_of(make_adm(**changes))
        assert name not in paths


def test_modules_of_latent_diffusion_have_its_names():
    of_classes, of_captions = (
        {n: "/".join(t.path) for n, t in targets_of(network).items()}
        for network in (make_latent_unet(depth=2), make_latent_unet(CAPTIONS))
    )
    attention, block = "down/level_1/attention_0", "down/level_1/attention_0/blocks"
    theirs = "input_blocks.3.1"
    expected = {
        f"{theirs}.norm.weight": f"{attention}/norm/scale",
        f"{theirs}.proj_in.weight": f"{attention}/input/kernel",
        f"{theirs}.proj_out.bias": f"{attention}/output/bias",
    }
    theirs = f"{theirs}.transformer_blocks.1"
    block = f"{block}/block_1"
    expected |= {
        f"{theirs}.norm1.weight": f"{block}/norm_a/scale",
        f"{theirs}.attn1.to_q.weight": f"{block}/self_attention/query/kernel",
        f"{theirs}.attn2.to_k.weight": f"{block}/cross_attention/key/kernel",
        f"{theirs}.attn2.to_out.0.bias": f"{block}/cross_attention/output/bias",
        f"{theirs}.ff.net.0.proj.weight": f"{block}/feed_forward/hidden/kernel",
        f"{theirs}.ff.net.2.bias": f"{block}/feed_forward/output/bias",
        f"{theirs}.norm3.bias": f"{block}/norm_c/bias",
        "cond_stage_model.embedding.weight": "context/label/embedding",
    }
    assert {name: of_classes.get(name) for name in expected} == expected
    theirs, block = "cond_stage_model.transformer", "context/blocks/block_1"
    layer = f"{theirs}.attn_layers.layers"
    expected = {
        f"{theirs}.token_emb.weight": "context/token/embedding",
        f"{theirs}.pos_emb.emb.weight": "context/position/embedding",
        f"{layer}.2.0.weight": f"{block}/norm_a/scale",
        f"{layer}.2.1.to_v.weight": f"{block}/attention/value/kernel",
        f"{layer}.2.1.to_out.bias": f"{block}/attention/output/bias",
        f"{layer}.3.0.bias": f"{block}/norm_b/bias",
        f"{layer}.3.1.net.0.0.bias": (f"{block}/feed_forward/hidden/bias"),
        f"{layer}.3.1.net.2.weight": (f"{block}/feed_forward/output/kernel"),
        f"{theirs}.norm.bias": "context/norm/bias",
    }
    assert {name: of_captions.get(name) for name in expected} == expected


def test_tensors_of_latent_diffusion_are_transposed_by_their_kind():
    network = make_latent_unet(CAPTIONS)
    state = random_state_dict(network)
    params = convert(state, network)
    attention = params["middle"]["attention"]
    block = attention["blocks"]["block_0"]
    theirs = "middle_block.1.transformer_blocks.0"
    assert state["middle_block.1.proj_in.weight"].shape == (64, 64, 1, 1)
    for ours, expected in (
        (
            attention["input"]["kernel"][3, 50],
            state["middle_block.1.proj_in.weight"][50, 3, 0, 0],
        ),
        (
            block["cross_attention"]["value"]["kernel"][5, 9],
            state[f"{theirs}.attn2.to_v.weight"][9, 5],
        ),
        (
            params["context"]["token"]["embedding"][6, 2],
            state["cond_stage_model.transformer.token_emb.weight"][6, 2],
        ),
    ):
        assert ours == expected


def test_tensors_of_guided_diffusion_are_transposed_by_their_kind():
    network = make_adm()
    state = random_state_dict(network)
    params = convert(state, network)
    attention = params["down"]["level_1"]["attention_0"]
    assert state["input_blocks.3.1.qkv.weight"].shape == (192, 64, 1)
    for ours, theirs in (
        (
            attention["query_key_value"]["kernel"][3, 150],
            state["input_blocks.3.1.qkv.weight"][150, 3, 0],
        ),
        (
            attention["output"]["kernel"][3, 50],
            state["input_blocks.3.1.proj_out.weight"][50, 3, 0],
        ),
        (
            params["down"]["level_0"]["downsample"]["kernel"][0, 2, 5, 7],
            state["input_blocks.2.0.op.weight"][7, 5, 0, 2],
        ),
        (
            params["embedding"]["hidden"]["kernel"][3, 9],
            state["time_embed.0.weight"][9, 3],
        ),
    ):
        assert ours == theirs


def test_misfits_of_guided_diffusion_are_listed():
    network = make_adm()
    state = random_state_dict(network)
    del state["out.2.bias"]
    state["label_emb.weight"] = np.zeros((4, 128))
    state["out.3.bias"] = np.zeros(1)
    with pytest.raises(InputError) as error:
        convert(state, network)
    assert "missing: out.2.bias;" in str(error.value)
    assert "unexpected: out.3.bias;" in str(error.value)
    assert "label_emb.weight (4, 128) instead of (3, 128)" in str(error.value)


def test_tensors_are_transposed_by_their_kind():
    network = make_network()
    state = random_state_dict(network)
    params = convert(state, network)
    block = params["down"]["level_1"]["block_0"]
    official = "all_modules.6"
    for ours, theirs in (
        (
            block["conv_a"]["kernel"][0, 2, 1, 5],
            state[f"{official}.Conv_0.weight"][5, 1, 0, 2],
        ),
        (block["embedding"]["kernel"][3, 4], state[f"{official}.Dense_0.weight"][4, 3]),
        (
            block["shortcut"]["kernel"][1, 6],
            state[f"{official}.Conv_2.weight"][6, 1, 0, 0],
        ),
        (block["norm_b"]["scale"][2], state[f"{official}.GroupNorm_1.weight"][2]),
        (
            params["down"]["level_1"]["attention_0"]["key"]["kernel"][1, 2],
            state["all_modules.7.NIN_1.W"][1, 2],
        ),
        (
            params["embedding"]["label"]["embedding"][2, 1],
            state["all_modules.0.weight"][2, 1],
        ),
    ):
        assert ours == theirs


def test_all_misfits_are_listed_in_one_message():
    network = make_network()
    state = random_state_dict(network)
    del state["all_modules.3.weight"]
    del state["all_modules.9.NIN_0.b"]
    state["all_modules.99.weight"] = np.zeros(1)
    state["all_modules.0.weight"] = np.zeros((3, 4))
    state["all_modules.4.Conv_0.weight"] = np.zeros((3, 3, 4, 4))
    with pytest.raises(InputError) as error:
        convert(state, network)
    message = str(error.value)
    assert "missing: all_modules.3.weight, all_modules.9.NIN_0.b;" in message
    assert "unexpected: all_modules.99.weight;" in message
    assert "all_modules.0.weight (3, 4) instead of (4, 4)" in message
    assert "all_modules.4.Conv_0.weight (3, 3, 4, 4) instead of (4, 4, 3, 3)" in message


def test_checkpoint_of_another_network_is_refused():
    with pytest.raises(InputError, match=r"missing: .*unexpected: .*misshapen: "):
        convert(random_state_dict(make_network()), make_network(num_classes=0))


def test_network_of_another_kind_is_refused():
    linear = Network(
        init=lambda key: {"kernel": jax.numpy.zeros((2, 2))},
        apply=lambda params, x, c_noise, label: x,
        image_shape=(1, 1, 2),
    )
    with pytest.raises(InputError, match="allowed: a network of name ncsnpp"):
        convert({}, linear)
