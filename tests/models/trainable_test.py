"""What a config selects of a network, and what a model makes of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import planning, rooms
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models import trainable
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model, num_scalars, signature
from dpdm_jax.networks import Network, adm
from dpdm_jax.networks.parts import ATTENTION, CONDITION, Part, Parts

SHAPE = (4, 4, 1)


def adm_config(selector="all", *, low_frequencies=0):
    """Two levels with attention: seven blocks of it."""
    config = digits.network_alone()
    config.network.name = "adm"
    config.network.patch_size = 1
    rooms.forget_foreign(config, ["network.name"])
    config.network.adm.update(
        base_channels=32,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_factors=(1, 2),
        head_channels=32,
    )
    config.network.low_frequencies.count = low_frequencies
    config.train.trainable = selector
    return config


@functools.cache
def model_of(selector="all", num_classes=3, **options):
    return build_model(adm_config(selector, **options), SHAPE, of_classes(num_classes))


@pytest.fixture(scope="module")
def network():
    return model_of().network


def trained_names(selector, network):
    """Names of a network's trained parameters, adapters aside, and of the adapted."""
    found = trainable.select(selector, network)
    return named_leaves(network.shapes).keys() - found.frozen, found.adapted


ALL_LEVELS = {"down/level_0", "down/level_1", "middle", "up/level_0", "up/level_1"}


@pytest.mark.parametrize(
    ("selector", "modules"),
    [
        ("all", {*ALL_LEVELS, "embedding", "stem", "head"}),
        (
            "attention",
            {
                *(f"down/level_{i}/attention_0" for i in (0, 1)),
                "middle/attention",
                *(f"up/level_{i}/attention_{j}" for i in (0, 1) for j in (0, 1)),
            },
        ),
        (
            "attention:4-7",
            {f"up/level_{i}/attention_{j}" for i in (0, 1) for j in (0, 1)},
        ),
        ("attention:3-3", {"middle/attention"}),
        # Coarse before fine, on the way up.
        ("attention:3-4", {"middle/attention", "up/level_1/attention_0"}),
        ("condition", {"embedding/label"}),
        ("resblocks:1-1, condition", {"down/level_0/block_0", "embedding/label"}),
        ("*/attention/*,head/*", {"middle/attention", "head"}),
        (
            "up/*/attention_?/output/*",
            {f"up/level_{i}/attention_{j}/output" for i in (0, 1) for j in (0, 1)},
        ),
        ("embedding/label/embedding", {"embedding/label"}),
    ],
)
def test_what_is_selected(selector, modules, network):
    names, adapted = trained_names(selector, network)
    every = set(named_leaves(network.shapes))
    wanted = {n for n in every if any(n.startswith(f"{m}/") for m in modules)}
    assert names == wanted
    assert adapted == ()


def test_low_rank_adapters_come_with_the_condition(network):
    names, adapted = trained_names("lora:4", network)
    assert names == {"embedding/label/embedding"}
    assert adapted == network.parts.adapted
    names, adapted = trained_names("lora:4,attention:1-6,stem/*", network)
    assert {"stem/kernel", "stem/bias"} < names
    # Not beside a matrix that is trained itself.
    assert adapted == network.parts.adapted[-2:]
    names, _ = trained_names("lora:4", model_of(num_classes=0).network)
    assert names == set()


@pytest.mark.parametrize(
    ("selector", "wrong"),
    [
        ("attentoin", "attentoin"),
        ("", ""),
        ("attention,", ""),
        ("attention:3-8", "attention:3-8"),
        ("attention:0-2", "attention:0-2"),
        ("attention:3-2", "attention:3-2"),
        ("attention:3", "attention:3"),
        ("attention:", "attention:"),
        ("all:1-2", "all:1-2"),
        ("cross_attention", "cross_attention"),
        ("attention,blocks/*", "blocks/*"),
        ("lora", "lora:"),
        ("lora:0", "lora:0"),
        ("lora:65", "lora:65"),
        ("lora:x", "lora:x"),
        ("lora:2,lora:4", "lora:4"),
        ("lora:2,attention", "lora:2"),
    ],
)
def test_what_selects_nothing_is_refused_with_what_there_is(selector, wrong, network):
    with pytest.raises(InputError) as caught:
        trainable.select(selector, network)
    assert str(caught.value) == (
        f"train.trainable is {selector!r}, of which {wrong!r} selects nothing; allowed "
        "with this network: all, attention, attention:FIRST-LAST (1 to 7), resblocks, "
        "resblocks:FIRST-LAST (1 to 8), condition, lora:RANK (1 to 64) once, a pattern "
        "of its parameters' paths such as down/*, or several of these with commas "
        "between."
    )


def test_what_is_not_in_a_network_is_not_offered():
    config = digits.network_alone()
    for missing in ("condition", "attention", "lora:2"):
        config.train.trainable = missing
        with pytest.raises(InputError) as caught:
            build_model(config, (8, 8, 1), of_classes(0))
        assert (
            "network: all, a pattern of its parameters' paths such as blocks/*, or "
            in (str(caught.value))
        )


# Of DP-LDM (arXiv 2305.15759), whose unconditional U-Nets are this network.
CELEBA_64 = {"base_channels": 128, "head_channels": 0, "num_heads": 8}
CELEBA_32 = {"base_channels": 192, "head_channels": 32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "side", "total", "attention", "of_a_rank"),
    [
        (CELEBA_64, 32, 72_172_803, 7_959_808, 29_952),
        (CELEBA_32, 16, 162_314_115, 17_887_104, 44_928),
    ],
)
def test_published_counts(settings, side, total, attention, of_a_rank):
    shape = adm.Settings(
        channel_multipliers=(1, 2, 4),
        num_res_blocks=2,
        attention_factors=(4, 2, 1),
        scale_shift=True,
        resample_in_blocks=True,
        **settings,
    )
    network = adm.build(shape, (side, side, 3), 0)
    assert network.num_parameters == total
    assert len(network.parts.of_role(ATTENTION)) == 16
    leaves = named_leaves(network.shapes)
    names, _ = trained_names("attention", network)
    assert sum(leaves[name].size for name in names) == attention
    for rank in (1, 8):
        found = trainable.select(f"lora:{rank}", network)
        shapes = jax.eval_shape(
            lambda found=found: found.with_adapters(
                network.init(jax.random.key(0)), jax.random.key(0)
            )
        )
        assert num_scalars(shapes) - total == rank * of_a_rank
        assert found.frozen == leaves.keys()


@pytest.fixture
def with_inert():
    """A network of two matrices, the first of which gets no gradient."""

    def init(key):
        return {"cross": {"query": jnp.ones(3), "value": jnp.ones(2)}}

    known = Parts((Part(CONDITION, "cross"),), inert=("cross/query",))
    return Network(init, lambda *args: args[1], SHAPE, parts=known)


@pytest.mark.parametrize("selector", ["all", "condition", "cross/*"])
def test_what_gets_no_gradient_is_not_trained(selector, with_inert):
    found = trainable.select(selector, with_inert)
    assert (found.selector, found.frozen) == (selector, {"cross/query"})


def test_what_gets_no_gradient_cannot_be_selected(with_inert):
    with pytest.raises(InputError, match="'cross/query' selects nothing"):
        trainable.select("cross/query", with_inert)


@pytest.mark.parametrize("options", [{}, {"low_frequencies": 2}])
@pytest.mark.parametrize("selector", ["attention:2-3,condition", "lora:2"])
def test_a_model_is_split_merged_and_begun(selector, options):
    model, plain = model_of(selector, **options), model_of(**options)
    params = model.init(jax.random.key(0))
    trained, _ = model.split(params)
    assert num_scalars(trained) == model.num_trained < 0.2 * model.num_parameters
    assert model.num_parameters == plain.num_parameters == plain.num_trained
    assert model.num_adapters == num_scalars(params) - plain.num_parameters
    assert bool(model.num_adapters) == (selector == "lora:2")
    # The weights that a network is begun with do not depend on what is trained.
    same = jax.tree.map(
        np.array_equal, plain.init(jax.random.key(0)), model.merged(params)
    )
    assert all(jax.tree.leaves(same))
    # Other weights are taken with the adapters that were there.
    others = jax.tree.map(jnp.ones_like, model.network_of(params))
    assert jax.tree.structure(others) == jax.tree.structure(plain.network.shapes)
    joined = model.with_network(params, others)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert all(x.all() for x in jax.tree.leaves(model.network_of(joined)))
    assert signature(model)["trainable"] == selector
    assert signature(model.ordinary) == signature(plain)
    assert "trainable" not in signature(plain)


def test_a_pattern_of_all_parameters_leaves_no_word_in_what_is_released():
    model, plain = (
        build_model(adm_config(selector), SHAPE, of_classes(3))
        for selector in ("*", "all")
    )
    assert not model.trainable.frozen
    assert signature(model)["trainable"] == "*"
    assert signature(model.ordinary) == signature(plain)


def test_a_prior_stays_fixed_beside_a_part_of_the_network():
    config = adm_config("lora:2")
    config.diffusion.parameterization = "edm_moments"
    config.privacy.moments_noise_multiplier = 10.0
    model = build_model(config, SHAPE, of_classes(3))
    params = model.init(jax.random.key(0))
    trained, fixed = model.split(params)
    assert trained.keys() == {"network"} < fixed.keys()
    assert num_scalars(trained) + num_scalars(fixed) == num_scalars(params)
    assert model.merged(params).keys() == params.keys()
    merged = model.network_of(model.merged(params))
    assert named_leaves(merged).keys() == named_leaves(model.network.shapes).keys()


def test_the_plan_tells_what_is_trained():
    config = adm_config("lora:2")
    config.data.update(image_size=4, num_examples=1437)
    report = planning.plan_report(config, estimate_cost=False)
    plan = report["trained"]
    assert report["num_parameters"] > 10 * report["num_trained"]
    assert plan == {
        "selector": "lora:2",
        "parameters": report["num_trained"],
        "adapters": report["num_trained"] - 1280,
        "of": report["num_parameters"],
    }
    groups = report["trained_modules"]
    assert groups["embedding/label"] == 10 * 128
    assert set(groups) == {
        "embedding/label",
        *(
            f"{name} (adapters)"
            for name in (
                "down/level_*/attention_*",
                "middle/attention",
                "up/level_*/attention_*",
            )
        ),
    }
    assert sum(groups.values()) == report["num_trained"] == report["coordinates"]
    config.train.trainable = "all"
    report = planning.plan_report(config, estimate_cost=False)
    assert "trained" not in report
    groups = report["trained_modules"]
    assert sum(groups.values()) == report["num_trained"] == report["num_parameters"]
    assert {"stem", "head/conv", "down/level_*/block_*"} < set(groups)


def test_a_plan_with_a_part_costs_less(monkeypatch):
    monkeypatch.setattr(planning, "_matrix_product_rate", lambda: 1e11)
    config = adm_config()
    config.data.update(image_size=4, num_examples=1437)
    # Of fewer weights an engine would choose to take more examples at once.
    config.train.engine_microbatch_size = config.train.microbatch_size
    whole = planning.plan_report(config)
    config.train.trainable = "lora:2"
    part = planning.plan_report(config)
    assert 0.6 < part["flops_per_step"] / whole["flops_per_step"] < 0.8
    memory = "estimated_device_memory_bytes"
    # A gradient of all weights less for each example, and all but the weights once.
    held = config.train.microbatch_size + 5
    saved = 4 * held * (whole["num_trained"] - part["num_trained"])
    assert whole[memory] - part[memory] == pytest.approx(saved, rel=0.1)
