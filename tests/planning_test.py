import json

import jax
import numpy as np
import pytest

from dpdm_jax import command_line, data, devices, planning
from dpdm_jax.conditions import Tokens, of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models import encoding
from dpdm_jax.models.model import build_model
from dpdm_jax.networks.codecs import KEPT
from dpdm_jax.privacy import Ledger, format_epsilon, read_ledger
from dpdm_jax.privacy.clipping import auto


@pytest.mark.parametrize(
    ("engine", "array_bytes", "given", "expected"),
    [
        ("auto", 2**22, 0, 4),
        ("auto", 1, 0, 1),
        ("auto", 1, 2, 2),
        ("scan", 2**22, 0, 1),
        ("scan", 2**22, 16, 16),
        ("vmap", 1, 0, 32),
    ],
)
def test_a_plan_counts_the_examples_that_the_engine_takes(
    engine, array_bytes, given, expected, monkeypatch
):
    config = digits.network_alone()
    config.train.update(engine=engine, engine_microbatch_size=given, microbatch_size=32)
    number = planning.plan_report(config)["num_trained"]
    monkeypatch.setattr(auto, "CPU_BYTES", 4 * 4 * number)  # four gradients
    monkeypatch.setattr(auto, "CPU_ARRAY_BYTES", array_bytes)
    report = planning.plan_report(config)
    assert report["images_at_once"] == expected


@pytest.mark.parametrize(
    ("examples", "size", "expected"), [(0, 8, 1), (1, 8, 1), (8, 8, 1), (9, 8, 2)]
)
def test_num_microbatches(examples, size, expected):
    assert planning.num_microbatches(examples, size) == expected


def test_microbatches_divide_over_devices():
    planning.check_microbatch(8, 4)
    with pytest.raises(InputError, match="multiples of 4"):
        planning.check_microbatch(6, 4)


def test_facts_come_from_the_data_where_the_config_is_silent():
    config = digits.network_alone()
    stated = planning.public_problem(config)
    config.data.num_examples = 0
    config.data.image_size = 0
    config.data.num_classes = -1
    assert planning.public_problem(config) == stated


def test_whatever_condition_a_config_states_is_that_of_its_plan(monkeypatch):
    config = digits.network_alone()
    condition = Tokens(length=3, vocabulary=5)
    asked = []
    monkeypatch.setattr(
        data, "stated_condition", lambda fields: asked.append(fields) or condition
    )
    assert planning.public_problem(config).condition is condition
    assert asked == [config.data]


@pytest.mark.slow
def test_a_plan_says_what_a_run_begins_with_and_how_images_are_seen():
    config = command_line.load_config("configs/cifar10_finetune.py:eps=10")
    report = planning.plan_report(config, estimate_cost=False)
    assert report["begins_with"] == "configs/imagenet_32_public.py"
    assert report["views"] == {"crop": 4, "flip": True, "count": 128}
    assert report["parameters"] == report["num_trained"] == 80_390_403
    config.initial.weights, config.initial.public = "weights.pt", "photographs"
    report = planning.plan_report(config, estimate_cost=False)
    assert report["begins_with_public_data"] == "photographs"
    config = digits.network_alone()
    report = planning.plan_report(config, estimate_cost=False)
    assert not {"begins_with", "views"} & report.keys()


@pytest.mark.slow
def test_the_noise_is_as_long_as_a_plan_says():
    config = digits.network_alone()
    config.privacy.l2_clip_norm = 0.5
    config.train.num_steps = 50
    report = planning.plan_report(config, estimate_cost=False)
    size = report["num_steps"], report["num_trained"]
    noise = np.random.default_rng(0).normal(0, report["noise_stddev"], size)
    noise /= report["expected_batch_size"] * 0.5
    # A length is within 1 % for all but one seed in a thousand: 0.3 % is its deviation.
    of_step, of_run = (np.linalg.norm(n) for n in (noise[0], noise.mean(0)))
    assert report["step_noise_over_clip_norm"] == pytest.approx(of_step, rel=0.01)
    assert report["run_noise_over_clip_norm"] == pytest.approx(of_run, rel=0.01)


def test_cost_grows_with_the_work(monkeypatch):
    monkeypatch.setattr(planning, "_matrix_product_rate", lambda: 1e11)
    config = digits.network_alone()
    report = planning.plan_report(config)
    config.diffusion.noise_multiplicity *= 2
    double = planning.plan_report(config)
    assert double["flops_per_step"] == pytest.approx(2 * report["flops_per_step"])
    wider = digits.network_alone()
    wider.train.microbatch_size *= 2
    memory = "estimated_device_memory_bytes"
    assert planning.plan_report(wider)[memory] > report[memory]


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_cost_of_encoding_is_that_of_the_compiled_program(kind):
    config = digits.network_alone()
    config.codec.name = kind
    small = {"base_channels": 32, "num_res_blocks": 1, "attention_factors": ()}
    config.codec[kind].update(small)
    config.diffusion.parameterization = "edm"
    model = build_model(config, (8, 8, 1), of_classes(10))
    images = jax.ShapeDtypeStruct((1, 8, 8, 1), np.uint8)
    program = encoding.encoding_program(model.codec, devices.data_mesh())
    compiled = program.lower({KEPT: model.shapes[KEPT]}, images).compile()
    flops, memory = planning.encoding_cost(model)
    assert compiled.cost_analysis()["flops"] == pytest.approx(flops, rel=0.3)
    taken = compiled.memory_analysis().temp_size_in_bytes
    assert taken / 2 < memory < 3 * taken


def test_pixels_are_encoded_at_no_cost():
    config = digits.network_alone()
    model = build_model(config, (8, 8, 1), of_classes(10))
    assert planning.encoding_cost(model) == (0.0, 0)


@pytest.mark.slow
def test_mnist_flops_are_the_references():
    """319.2 M multiply-adds a forward pass, three passes, K = 32, 4000 examples."""
    report = planning.plan_report(command_line.load_config("configs/mnist.py"))
    expected = 2 * 319.2e6 * 3 * 32 * 4000
    assert report["flops_per_step"] == pytest.approx(expected, rel=0.1)


def extendable(path, config):
    problem = planning.public_problem(config)
    model = build_model(config, problem.image_shape, problem.condition)
    plan = planning.privacy_plan(config, problem.num_examples, model)
    ledger = Ledger.create(path, plan)
    ledger.authorize(plan.num_steps)
    return ledger


@pytest.mark.slow
def test_a_plan_of_further_steps_shows_each_phase_and_the_total(tmp_path):
    config = digits.network_alone()
    config.privacy.accountant = "rdp"
    ledger = extendable(tmp_path / "privacy.json", config)
    before = ledger.record
    plain = planning.plan_report(config, estimate_cost=False, record=before)
    assert plain == planning.plan_report(config, estimate_cost=False)
    assert "phases" not in plain

    config.extend.epsilon, config.extend.num_steps = 12.0, 50
    asked = planning.plan_report(config, estimate_cost=False, record=before)
    assert read_ledger(tmp_path / "privacy.json") == before
    assert (asked["num_steps"], asked["total_steps"]) == (50, 450)
    assert plain["epsilon"] < asked["epsilon"] <= 12 == asked["target_epsilon"]
    assert asked["epsilon"] == asked["epsilon_rdp"] > asked["epsilon_pld"]
    assert [p["epsilon_planned"] for p in asked["phases"]] == [
        format_epsilon(report["epsilon"]) for report in (plain, asked)
    ]
    json.dumps(asked, allow_nan=False)

    ledger.extend(planning.extended_plan(config.extend, before))
    config.extend.epsilon, config.extend.num_steps = 0.0, 0
    shown = planning.plan_report(config, estimate_cost=False, record=ledger.record)
    assert shown == asked
    # Another config is not that run.
    config.privacy.epsilon = 5.0
    other = planning.plan_report(config, estimate_cost=False, record=ledger.record)
    assert other["target_epsilon"] == 5.0
    assert "phases" not in other


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 12.0}, r"extend\.num_steps is 0"),
        ({"num_steps": 5}, r"total epsilon is 0\.0"),
        ({"noise_multiplier": 3.0}, r"extend\.num_steps is 0"),
        ({"epsilon": 9.0, "num_steps": 5}, r"more than 10\.0"),
    ],
)
def test_further_steps_are_asked_for_in_full(tmp_path, fields, message):
    config = digits.network_alone()
    config.privacy.accountant = "rdp"
    record = extendable(tmp_path / "privacy.json", config).record
    config.extend.update(fields)
    with pytest.raises(InputError, match=message):
        planning.plan_report(config, estimate_cost=False, record=record)
    with pytest.raises(InputError, match="without a run to extend"):
        planning.plan_report(config, estimate_cost=False)
