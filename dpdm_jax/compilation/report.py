"""Compiles the programs of a run for a target and says what they need."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from dpdm_jax import planning, validate
from dpdm_jax.compilation import hlo
from dpdm_jax.compilation.memory import program_memory
from dpdm_jax.compilation.targets import CHIP_SOURCE, Chip, Target
from dpdm_jax.devices import DATA_AXIS
from dpdm_jax.diffusion import from_config as diffusion_from_config
from dpdm_jax.models import encoding
from dpdm_jax.models.model import Model, build_model
from dpdm_jax.padding import blank_examples
from dpdm_jax.privacy import PrivacyPlan, new_noise_key
from dpdm_jax.privacy.clipping import LossTraits, choose_engine, loss_traits
from dpdm_jax.sampling.generate import sampling_program
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.secrets import fresh_secrets
from dpdm_jax.training.state import create_state
from dpdm_jax.training.units import images_per_unit

_log = logging.getLogger(__name__)

_OUT_OF_MEMORY = re.compile(r"\(([0-9.]+)([KMGT])\) exceeds available HBM")
_COUNTED = {"flop": "flops", "accessed": "bytes_accessed"}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def compile_report(
    config: ml_collections.ConfigDict, target: Target, *, sampler: bool = True
) -> dict[str, Any]:
    """Compiles the training step and the sampler of a config for a target.

    ``accumulate`` and ``finish`` are those of ``make_train_step``, ``sample`` makes
    ``sample.batch_size`` images; of a model of latents ``encode`` makes what they are
    drawn of, for a micro-batch. All bytes are those of one device.

    Args:
        config: the whole config.
        target: see ``find_target``.
        sampler: whether to compile ``sample``, which of a large network takes as long
            as the training step.

    Returns:
        JSON values; the README of experiments/benchmarks explains them. A program that
        the compiler can't fit into the memory has an "error" in place of its figures.

    Raises:
        InputError: a field is out of range, or the micro-batch does not divide over the
            devices.
    """
    problem = planning.public_problem(config)
    model = build_model(config, problem.image_shape, problem.condition)
    plan = planning.privacy_plan(config, problem.num_examples, model)
    num_devices = len(target.devices)
    planning.check_microbatch(config.train.microbatch_size, num_devices)
    config = _with_engine_of(config, target, model)
    validate.integer("sample.batch_size", config.sample.batch_size, minimum=1)
    num_microbatches = planning.num_microbatches(
        plan.expected_batch_size, config.train.microbatch_size
    )
    programs = {}
    wanted = _programs(config, target, model, plan)
    if not sampler:
        del wanted["sample"]
    for name, lower in wanted.items():
        _log.info("compiling %s for %s ...", name, target.name)
        programs[name] = _compile(lower)
        _log.info("  took %.0f s", programs[name]["compile_seconds"])

    # The work that the method asks of a call of accumulate, on one device: a forward
    # and a backward pass of K noisy copies of each image.
    examples = config.train.microbatch_size // num_devices
    images = examples * images_per_unit(plan.unit)
    multiplicity = config.diffusion.noise_multiplicity
    forward_flops, _ = planning.forward_cost(config, model)
    passes = planning.gradient_passes(model)
    expected_flops = passes * forward_flops * multiplicity * images
    encoding_flops, _ = planning.encoding_cost(model)
    encoded = planning.images_encoded_per_step(config, model, plan)
    encoding_flops *= encoded * planning.encodings_of_image(model)
    batch = planning.batch_bytes(model, images)
    report = {
        "target": target.name,
        "devices": num_devices,
        "chips": target.num_chips,
        "device_kind": target.devices[0].device_kind,
        "network_dtype": config.network.dtype,
        "engine": config.train.engine,
        "engine_microbatch_size": config.train.engine_microbatch_size,
        "microbatch_size": config.train.microbatch_size,
        "microbatches_per_step": num_microbatches,
        "num_steps": plan.num_steps,
        "expected_flops_of_accumulate": expected_flops,
        "batch_bytes": batch,
        "encoding_calls_per_step": encoded / (images * num_devices),
        "draws_at_once": config.diffusion.draws_at_once or multiplicity,
        "flops_per_step": expected_flops * num_devices * num_microbatches
        + encoding_flops,
        "programs": programs,
        "training_bytes": _training_bytes(programs, _bytes_of(_fixed(model)) + batch),
        "sampling_bytes": programs.get("sample", {}).get("memory", {}).get("peak"),
    }
    compiled_flops = programs["accumulate"].get("flops")
    if compiled_flops:
        report["compiled_over_expected_flops"] = compiled_flops / expected_flops
    if target.device_limits is not None:
        limits = target.device_limits
        report |= _against_limits(report, limits, examples)
    return report


def describe(report: dict[str, Any]) -> str:
    """Puts what ``compile_report`` returns into lines of text."""
    columns = [
        name
        for name in ("encode", "accumulate", "finish", "sample")
        if name in report["programs"]
    ]
    lines = [
        f"Compiled for {report['target']}: {report['devices']} x "
        f"{report['device_kind']} ({report['chips']} chips); figures of one device.",
        "",
        f"{'':14}" + "".join(f"{name:>14}" for name in columns),
    ]
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "compiled in": lambda p: f"{p['compile_seconds']:.0f} s",
        "arguments": lambda p: _bytes(p["memory"]["arguments"]),
        "outputs": lambda p: _bytes(p["memory"]["outputs"]),
        "temporaries": lambda p: _bytes(p["memory"]["temporaries"]),
        "code": lambda p: _bytes(p["memory"]["code"]),
        "all at once": lambda p: _bytes(p["memory"]["peak"]),
        "flop": lambda p: f"{p['flops']:.3g}",
        "accessed": lambda p: _bytes(p["bytes_accessed"]),
        "main memory": lambda p: _bytes(p["main_memory_bytes"]),
        "loops": lambda p: str(p["loops"]),
        "exchanged": lambda p: _bytes(_exchanged(p)),
    }
    programs = [report["programs"][name] for name in columns]
    for name, cell in rows.items():
        cells = "".join(f"{cell(p) if _has(p, name) else '-':>14}" for p in programs)
        lines.append(f"{name:14}{cells}")
    lines.append("")
    for name, program in report["programs"].items():
        if "error" in program:
            lines.append(f"{name} does not compile: {program['error']}")
        if "unread" in program:
            lines.append(
                f"{name} can't be read, so that its traffic and exchanges are not "
                f"known: {program['unread']}"
            )
        for kind, found in program.get("collectives", {}).items():
            lines.append(
                f"{name} exchanges {_bytes(found['bytes'])} by {found['count']} {kind}"
            )
    lines.append(
        f"a logical step: {report['microbatches_per_step']} micro-batches of "
        f"{report['microbatch_size']} (engine {report['engine']}), "
        f"{report['flops_per_step']:.3g} flop over all devices"
    )
    if "compiled_over_expected_flops" in report:
        lines.append(
            "accumulate's flop over those of a gradient by the network's passes: "
            f"{report['compiled_over_expected_flops']:.2f}"
        )
    if report["training_bytes"] is not None:
        lines.append(f"memory while training: {_bytes(report['training_bytes'])}")
    if "fits" in report:
        answer = {True: "yes", False: "no", None: "unknown"}
        lines.append(
            f"fits into {_bytes(report['hbm_bytes'])}: training "
            f"{answer[report['fits']['training']]}, sampling "
            f"{answer[report['fits']['sampling']]}; largest micro-batch, roughly: "
            f"{report['largest_microbatch_estimate']}"
        )
    if "lower_bound_seconds_per_step" in report:
        traffic = report["memory_seconds_per_step"]
        said = "unknown" if traffic is None else f"{traffic:.3g}"
        lines.append(
            "a logical step takes at least "
            f"{report['compute_seconds_per_step']:.3g} s of computing and "
            f"{said} s of memory traffic; all steps "
            f"{report['lower_bound_hours']:.3g} hours ({report['limits_source']})"
        )
    return "\n".join(lines)


def _with_engine_of(
    config: ml_collections.ConfigDict, target: Target, model: Model
) -> ml_collections.ConfigDict:
    """Names the engine that "auto" stands for on the target, not on this machine."""
    if config.train.engine != "auto":
        return config
    config = config.copy_and_resolve_references()
    config.train.engine, size = choose_engine(
        target.devices[0].platform,
        config.train.microbatch_size // len(target.devices),
        model.num_trained,
        config.train.engine_microbatch_size or None,
        traits=_loss_traits(config, model),
    )
    config.train.engine_microbatch_size = size or 0
    return config


def _loss_traits(config: ml_collections.ConfigDict, model: Model) -> LossTraits:
    key = fresh_secrets().loss_key(0)
    one_example = (blank_examples(model.example, 1), key[None])
    loss = model.trained_loss()
    return loss_traits(
        lambda parts, *example: loss(*parts, *example),
        model.split(model.shapes),
        one_example,
    )


def _programs(
    config: ml_collections.ConfigDict, target: Target, model: Model, plan: PrivacyPlan
) -> dict[str, Callable[[], jax.stages.Lowered]]:
    """The programs that a run calls, as functions that lower them.

    No array is made: the devices need not exist.
    """
    mesh = Mesh(np.array(target.devices), (DATA_AXIS,))
    everywhere = NamedSharding(mesh, P())
    per_device = NamedSharding(mesh, P(DATA_AXIS))
    loss = model.trained_loss()
    training = build_training(config, plan, loss, new_noise_key(), mesh)
    step = training.step_fns
    sampler_config = diffusion_from_config.with_preset(config)
    sample = sampling_program(
        model,
        diffusion_from_config.sampler(sampler_config),
        mesh,
        guidance_scale=sampler_config.guidance,
    )

    trained, fixed = model.split(_placed(model.shapes, everywhere))
    released = _placed(model.ordinary.shapes, everywhere)
    state = jax.eval_shape(
        lambda params: create_state(
            params, training.optimizer, training.noise, config.train.power_averages
        ),
        trained,
    )
    state = _placed_in(state, training.layout(state))
    partial = _placed(jax.eval_shape(step.start, trained), per_device)
    units = config.train.microbatch_size
    size = units * images_per_unit(plan.unit)
    batch = _placed(
        (
            blank_examples(model.example, size),
            jax.ShapeDtypeStruct((size,), jnp.bool),  # is_padding
            jax.ShapeDtypeStruct((units,), jnp.int32),  # positions
        ),
        per_device,
    )
    key = _placed(fresh_secrets().loss_key(0), everywhere)
    count = -(-config.sample.batch_size // mesh.size) * mesh.size
    drawn = _placed(jax.random.key(0), everywhere)
    numbers = _placed(jax.ShapeDtypeStruct((count,), jnp.int32), per_device)
    asked = _placed(blank_examples(model.condition.spec, count), per_device)
    encode = {}
    if model.codec.law_spec != model.codec.spec:
        stored = _placed(blank_examples(model.stored, size), per_device)
        seen: tuple[Any, ...] = (encoding.weights_of(fixed), stored["image"])
        if model.encodes_views:
            laws = encoding.views_program(
                model, mesh, images_per_unit=images_per_unit(plan.unit)
            )
            seen += (batch[-1], key)
        else:
            laws = encoding.encoding_program(model.codec, mesh)
        encode["encode"] = lambda: laws.lower(*seen)
    return encode | {
        "finish": lambda: step.finish.lower(state, partial),
        "sample": lambda: sample.lower(drawn, released, numbers, asked),
        "accumulate": lambda: step.accumulate.lower(
            partial, state.params, fixed, *batch, key
        ),
    }


def _fixed(model: Model) -> Any:
    return model.split(model.shapes)[1]


def _bytes_of(shapes: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def _placed(tree: Any, sharding: Sharding) -> Any:
    return _placed_in(tree, jax.tree.map(lambda _: sharding, tree))


def _placed_in(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings,
    )


def _compile(lower: Callable[[], jax.stages.Lowered]) -> dict[str, Any]:
    lowered = lower()
    start, cpu_start = time.perf_counter(), time.process_time()

    def taken() -> dict[str, float]:
        return {
            "compile_seconds": time.perf_counter() - start,
            "compile_cpu_seconds": time.process_time() - cpu_start,
        }

    with _no_compilation_cache():
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            return taken() | {"error": str(e).splitlines()[0]}
    report: dict[str, Any] = taken()
    cost = compiled.cost_analysis() or {}
    report |= {
        "memory": program_memory(compiled),
        "flops": cost.get("flops"),
        "bytes_accessed": cost.get("bytes accessed"),
    }
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as e:
        # A libtpu newer than this jaxlib has instructions that it can't read.
        return report | {"unread": str(e).splitlines()[0]}
    assert text is not None
    program = hlo.Program(text)
    return report | {
        "main_memory_bytes": program.main_memory_bytes(),
        "loops": program.num_loops(),
        "collectives": program.collectives(),
    }


@contextlib.contextmanager
def _no_compilation_cache() -> Iterator[None]:
    """Compiles anew: a cached TPU program can't be loaded without a TPU."""
    enabled = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]  # made by name
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _working_bytes(program: dict[str, Any]) -> int:
    """What a program takes while it runs, besides its arguments and its code."""
    memory = program["memory"]
    return memory["peak"] - memory["arguments"] - memory["code"]


def _training_bytes(programs: dict[str, Any], fixed: int) -> int | None:
    """Memory of a device in training; None if a program does not compile.

    The training state and the sum, which are finish's arguments, and what no step
    changes and the batch, of so many bytes, stay in the memory while the others run,
    which see a part of them.
    """
    running = [p for name, p in programs.items() if name != "sample"]
    if any("error" in program for program in running):
        return None
    code = sum(program["memory"]["code"] for program in running)
    working = max(map(_working_bytes, running))
    return programs["finish"]["memory"]["arguments"] + fixed + code + working


def step_seconds(report: dict[str, Any], limits: Chip) -> tuple[float, float | None]:
    """Returns what a logical step takes at least, by computing and by memory traffic.

    Args:
        report: of ``compile_report``; its programs compile.
        limits: of a device.

    Returns:
        Seconds; None for traffic that is not known. What is known of it is less than
        the whole where ``finish``, which runs once a step, can't be read.
    """
    accumulate, finish = (report["programs"][n] for n in ("accumulate", "finish"))
    calls = report["microbatches_per_step"]
    compute = report["flops_per_step"] / report["devices"] / limits.flops_per_second
    if "unread" in accumulate:
        return compute, None
    moved = calls * accumulate["main_memory_bytes"]
    moved += finish.get("main_memory_bytes", 0)
    encode = report["programs"].get("encode", {})
    moved += report.get("encoding_calls_per_step", 0) * encode.get(
        "main_memory_bytes", 0
    )
    return compute, moved / limits.hbm_bytes_per_second


def _against_limits(
    report: dict[str, Any], limits: Chip, examples: int
) -> dict[str, Any]:
    """Compares a report with what the hardware can do."""
    programs = report["programs"]
    accumulate = programs["accumulate"]
    training, sampling = report["training_bytes"], report["sampling_bytes"]
    compared = {
        "limits_source": CHIP_SOURCE,
        "hbm_bytes": limits.hbm_bytes,
        "fits": {
            "training": training is not None and training <= limits.hbm_bytes,
            "sampling": None
            if "sample" not in programs
            else sampling is not None and sampling <= limits.hbm_bytes,
        },
        "largest_microbatch_estimate": None,
    }
    # What an example adds is proportional to the micro-batch; the rest is not.
    if training is not None:
        of_examples = _working_bytes(accumulate) + report["batch_bytes"]
        free = limits.hbm_bytes - training + of_examples
        per_example = of_examples / examples
    else:
        needed = _OUT_OF_MEMORY.search(accumulate.get("error", ""))
        if needed is None:
            return compared
        number, unit = needed.groups()
        free = limits.hbm_bytes
        per_example = float(number) * _UNITS[unit] / examples
    compared["largest_microbatch_estimate"] = (
        int(free / per_example) * report["devices"]
    )
    if training is None:
        return compared
    compute, memory = step_seconds(report, limits)
    seconds = max(compute, memory or 0.0)
    return compared | {
        "compute_seconds_per_step": compute,
        "memory_seconds_per_step": memory,
        "lower_bound_seconds_per_step": seconds,
        "lower_bound_hours": seconds * report["num_steps"] / 3600,
    }


def _has(program: dict[str, Any], row: str) -> bool:
    """Whether a program has the figure of a row of ``describe``."""
    if "error" in program:
        return row == "compiled in"
    if row in _COUNTED:  # which the compiler leaves out where there is nothing
        return program[_COUNTED[row]] is not None
    return "unread" not in program or row not in {"main memory", "loops", "exchanged"}


def _exchanged(program: dict[str, Any]) -> int:
    return sum(found["bytes"] for found in program["collectives"].values())


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"
