import dataclasses
import importlib.util
import json
import types

import jax
import jax.numpy as jnp
import pytest

from dpdm_jax import compilation, planning, rooms, settings
from dpdm_jax.compilation import report as report_lib
from dpdm_jax.compilation import targets
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models import encoding
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy.clipping import auto

pytestmark = pytest.mark.optimized  # their programs


def small_config(**overrides):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 16
    config.network.mlp.base_width = 4
    config.diffusion.noise_multiplicity = 2
    config.train.microbatch_size = 64
    config.sampler.num_steps = 4
    config.sample.batch_size = 6
    for name, value in overrides.items():
        config.train[name] = value
    return config


@pytest.fixture(scope="module")
def on_cpu():
    return compilation.compile_report(small_config(), compilation.find_target("cpu"))


@pytest.fixture(scope="module")
def on_tpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip('libtpu is not installed (pip install -e ".[tpu]")')
    return compilation.compile_report(
        small_config(), compilation.find_target("v5e:2x2")
    )


def num_parameters():
    return build_model(small_config(), (8, 8, 1), of_classes(10)).num_parameters


def check_work(report):
    examples = 64 // report["devices"]
    # A forward pass is two flop a weight and little else; backward costs two of them.
    weights = num_parameters()
    work = 3 * 2 * weights * 2 * examples
    assert report["expected_flops_of_accumulate"] == pytest.approx(work, rel=0.5)
    # 718 examples in micro-batches of 64.
    assert report["microbatches_per_step"] == 12
    whole = 12 * report["devices"] * report["expected_flops_of_accumulate"]
    assert report["flops_per_step"] == pytest.approx(whole)
    assert 0.5 < report["compiled_over_expected_flops"] < 3


@pytest.mark.slow
def test_people_take_the_work_of_their_images(on_cpu, monkeypatch):
    """Of as many as there is room for; the programs are lowered alone."""
    sizes = dict.fromkeys(("arguments", "temporaries", "peak", "code"), 0)

    def lowered(lower):
        assert lower() is not None
        return {"memory": sizes, "compile_seconds": 0.0}

    monkeypatch.setattr(report_lib, "_compile", lowered)
    config = small_config(images_per_group=3)
    config.data.update(source="npz", group="person")
    people = compilation.compile_report(config, compilation.find_target("cpu"))
    works = [r["expected_flops_of_accumulate"] for r in (people, on_cpu)]
    assert works[0] == pytest.approx(3 * works[1])
    assert people["microbatches_per_step"] == on_cpu["microbatches_per_step"]


@pytest.mark.slow
def test_cpu(on_cpu):
    check_work(on_cpu)
    for program in on_cpu["programs"].values():
        memory = program["memory"]
        assert memory["peak"] >= memory["arguments"] + memory["temporaries"]
        assert program["flops"] > 0
        assert program["bytes_accessed"] > 0
    # Weights, average, two moments of Adam, and the two words of the sum.
    state = on_cpu["programs"]["finish"]["memory"]["arguments"]
    assert state == pytest.approx(6 * 4 * num_parameters(), rel=0.01)
    assert on_cpu["training_bytes"] >= state
    assert "fits" not in on_cpu


@pytest.mark.slow
def test_auto_is_the_engine_of_the_target(on_cpu, monkeypatch):
    assert on_cpu["engine"] == "vmap"
    for name in ("CPU_BYTES", "BYTES"):
        monkeypatch.setattr(auto, name, 4 * 4 * num_parameters())
    model = build_model(small_config(), (8, 8, 1), of_classes(10))
    cpu = compilation.find_target("cpu")
    config = report_lib._with_engine_of(small_config(), cpu, model)
    assert (config.train.engine, config.train.engine_microbatch_size) == ("scan", 4)
    tpu = dataclasses.replace(cpu, devices=(types.SimpleNamespace(platform="tpu"),))
    config = report_lib._with_engine_of(small_config(), tpu, model)
    assert config.train.engine == "book_keeping"
    config = report_lib._with_engine_of(small_config(engine="vmap"), tpu, model)
    assert config.train.engine == "vmap"


@pytest.mark.slow
def test_memory_grows_with_the_microbatch(on_cpu, monkeypatch):
    programs, compile_ = report_lib._programs, report_lib._compile

    def accumulate_alone(*args):
        """In the place of the other programs, which are the same, their names."""
        return {n: p if n == "accumulate" else n for n, p in programs(*args).items()}

    def compiled(lower):
        is_name = isinstance(lower, str)
        return on_cpu["programs"][lower] if is_name else compile_(lower)

    monkeypatch.setattr(report_lib, "_programs", accumulate_alone)
    monkeypatch.setattr(report_lib, "_compile", compiled)
    double = compilation.compile_report(
        small_config(microbatch_size=128), compilation.find_target("cpu")
    )
    more, less = (
        r["programs"]["accumulate"]["memory"]["temporaries"] for r in (double, on_cpu)
    )
    assert 1.5 < more / less < 2.5


def test_tpu(on_tpu):
    check_work(on_tpu)
    programs = on_tpu["programs"]
    assert programs["accumulate"]["collectives"] == {}
    assert programs["sample"]["collectives"] == {}
    # Devices speak once a logical step, of a gradient and five sums: by an all-reduce,
    # or by its halves, of which the second takes in a device's share of the gradient.
    exchanged = programs["finish"]["collectives"]
    assert set(exchanged) <= {"all-reduce", "reduce-scatter", "all-gather"}
    gradient = 4 * num_parameters()
    put_in = sum(kind["bytes"] for kind in exchanged.values())
    assert gradient + 20 <= put_in < gradient * (1 + 1 / on_tpu["devices"]) + 100
    assert on_tpu["fits"] == {"training": True, "sampling": True}
    assert on_tpu["largest_microbatch_estimate"] > 64
    compute = on_tpu["expected_flops_of_accumulate"] * 12 / 197e12
    assert on_tpu["compute_seconds_per_step"] == pytest.approx(compute)
    assert on_tpu["lower_bound_seconds_per_step"] >= compute


@pytest.mark.parametrize("where", ["on_cpu", "on_tpu"])
def test_json_and_text(where, request):
    report = request.getfixturevalue(where)
    assert json.loads(json.dumps(report)) == report
    text = compilation.describe(report)
    assert "accumulate" in text
    assert "12 micro-batches of 64" in text
    assert ("at least" in text) == (where == "on_tpu")


def test_microbatches_divide_over_the_slice(on_tpu):
    del on_tpu  # for its skip
    with pytest.raises(InputError, match=r"size is 66; .* multiples of 4"):
        compilation.compile_report(
            small_config(microbatch_size=66), compilation.find_target("v5e:2x2")
        )


def test_a_program_too_large_for_the_memory(on_tpu, monkeypatch):
    """What the compiler says then is reported, with a micro-batch that should do."""
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
        "total memory required for HLO temporaries (32.00G) exceeds available HBM "
        "(15.75G). HLO module: jit_accumulate_on_device.\nSee a page."
    )
    whole = jax.stages.Lowered.compile

    def compile_(lowered, *args, **kwargs):
        if "accumulate" in lowered.as_text()[:200]:
            raise jax.errors.JaxRuntimeError(said)
        return whole(lowered, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
    report = compilation.compile_report(
        small_config(), compilation.find_target("v5e:2x2")
    )
    assert report["fits"] == {"training": False, "sampling": True}
    assert report["programs"]["accumulate"]["error"] == said.splitlines()[0]
    assert report["largest_microbatch_estimate"] == int(16e9 / (2**35 / 16)) * 4
    text = compilation.describe(report)
    assert "accumulate does not compile: RESOURCE_EXHAUSTED" in text
    assert "training no, sampling yes" in text


def test_the_compilation_cache_is_left_as_it_was():
    before = jax.config.jax_enable_compilation_cache
    with report_lib._no_compilation_cache():
        assert not jax.config.jax_enable_compilation_cache
    assert jax.config.jax_enable_compilation_cache == before


@pytest.mark.slow
def test_a_codec_is_counted_in_the_report_and_in_the_plan(monkeypatch):
    # As on an accelerator, where it holds more than anything else of this model.
    monkeypatch.setattr(encoding, "images_at_once", lambda platform: 16)
    config = small_config(microbatch_size=16)
    changes = {
        "codec.name": "kl",
        "codec.kl.base_channels": 64,
        "codec.kl.num_res_blocks": 1,
        "codec.kl.attention_factors": (),
        "codec.cache": "off",
        "diffusion.parameterization": "edm",
    }
    for name, value in changes.items():
        settings.assign(config, name, value)
    rooms.forget_foreign(config, list(changes))
    report = compilation.compile_report(config, compilation.find_target("cpu"))
    model = build_model(config, (8, 8, 1), of_classes(10))
    weights = 4 * (model.num_parameters - model.num_trained)
    assert weights > 4 * model.num_trained
    working = report["programs"]["encode"]["memory"]["temporaries"]
    assert working > report["programs"]["accumulate"]["memory"]["temporaries"]
    state = report["programs"]["finish"]["memory"]["arguments"]
    assert report["training_bytes"] >= state + weights + working
    lines = compilation.describe(report).splitlines()
    assert lines[2].split() == ["encode", "accumulate", "finish", "sample"]

    monkeypatch.setattr(planning, "_matrix_product_rate", lambda: 1e11)
    plan = planning.plan_report(config)
    estimate = plan["estimated_device_memory_bytes"]
    assert report["training_bytes"] / 2 < estimate < 2 * report["training_bytes"]
    of_image = report["programs"]["encode"]["flops"] / 16
    config.codec.cache = "memory"
    kept = planning.plan_report(config)
    assert kept["estimated_device_memory_bytes"] == estimate
    # Each image once in the run, and not in each of its steps.
    fewer = plan["expected_batch_size"] - plan["num_examples"] / plan["num_steps"]
    spared = plan["flops_per_step"] - kept["flops_per_step"]
    assert spared == pytest.approx(fewer * of_image, rel=0.3)

    config.codec.cache = "off"
    config.diffusion.views.flip = True
    views = config.diffusion.noise_multiplicity
    more = planning.plan_report(config)["flops_per_step"] - plan["flops_per_step"]
    each = plan["expected_batch_size"] * of_image
    assert more == pytest.approx((views - 1) * each, rel=0.3)
    model = build_model(config, (8, 8, 1), of_classes(10))
    target = compilation.find_target("cpu")
    lower = report_lib._programs(
        config,
        target,
        model,
        planning.privacy_plan(config, plan["num_examples"], model),
    )["encode"]
    assert lower().out_info.shape == (16, *model.example["image"].shape)
    assert model.example["image"].shape == (views, *model.codec.law_spec.shape)


def test_a_program_that_this_jaxlib_cannot_read_keeps_its_other_figures(
    monkeypatch, on_cpu
):
    def unreadable(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: an instruction of a later version")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", unreadable)
    found = report_lib._compile(lambda: jax.jit(jnp.sin).lower(1.0))
    assert found["unread"] == "INTERNAL: an instruction of a later version"
    assert found["memory"]["peak"] > 0
    assert not {"main_memory_bytes", "loops", "collectives"} & set(found)

    programs = on_cpu["programs"] | {"finish": found}
    described = compilation.describe(on_cpu | {"programs": programs})
    assert "finish can't be read, so that its traffic" in described
    (exchanged,) = (x for x in described.splitlines() if x.startswith("exchanged"))
    assert exchanged.split() == ["exchanged", "0", "B", "-", "0", "B"]

    chip = targets.CHIPS["v5e"]

    def limits(**changed):
        report = on_cpu | {"programs": on_cpu["programs"] | changed}
        return report_lib._against_limits(report, chip, examples=64)

    # The rest of a step is a lower bound of the whole; nothing of it is none.
    whole, known = limits(), limits(finish=found)
    assert 0 < known["memory_seconds_per_step"] < whole["memory_seconds_per_step"]
    nothing = limits(accumulate=found)
    assert nothing["memory_seconds_per_step"] is None
    assert (
        nothing["lower_bound_seconds_per_step"] == nothing["compute_seconds_per_step"]
    )


def test_training_alone(monkeypatch):
    compiled = []
    monkeypatch.setattr(
        report_lib,
        "_programs",
        lambda *_: {name: name for name in ("finish", "sample", "accumulate")},
    )

    def compile_(lower):
        compiled.append(lower)
        figures = {"peak": 3, "arguments": 1, "code": 1}
        return {"compile_seconds": 0.0, "memory": figures}

    monkeypatch.setattr(report_lib, "_compile", compile_)
    report = compilation.compile_report(
        small_config(), compilation.find_target("cpu"), sampler=False
    )
    assert compiled == ["finish", "accumulate"]
    assert report["sampling_bytes"] is None
    chip = targets.CHIPS["v5e"]
    report["programs"]["accumulate"]["main_memory_bytes"] = 5
    fits = report_lib._against_limits(report, chip, examples=1)["fits"]
    assert fits == {"training": True, "sampling": None}
