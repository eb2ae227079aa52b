"""The tasks of the benchmark on a GPU; runs in a process of ``gpu``.

python -m experiments.benchmarks.gpu_tasks TASKS_AS_JSON

Prints the lines of the tasks. One that raises gives a line with its "error", and the
next one is done.
"""

import concurrent.futures
import contextlib
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import ml_collections  # noqa: E402

from dpdm_jax import planning  # noqa: E402
from dpdm_jax.compilation.memory import program_memory  # noqa: E402
from dpdm_jax.models.model import Model  # noqa: E402
from dpdm_jax.privacy.clipping import choose_engine  # noqa: E402
from experiments.benchmarks import (  # noqa: E402
    finetune_problem,
    gpu_problem,
    jax_steps,
    machine,
    pairs,
)

Line = dict[str, Any]

#: Dtype of the network and JAX's name for how float32 operands are multiplied. The
#: default, which is what training has, is tf32 on GPUs that know it.
PRECISIONS = {
    "float32": ("float32", "highest"),
    "tf32": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}


def describe() -> Line:
    """What the figures were measured on."""
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "bytes_limit": limit,
        "commit": machine.commit(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "machine": machine.describe(),
    }


def peak(size: int, round_seconds: float = 0.3) -> Line:
    """Matrix products of one size, and what a sweep over memory moves.

    Args:
        size: of the square matrices.
        round_seconds: see ``pairs.repeated``.
    """
    tflops = {}
    for name, (_, precision) in PRECISIONS.items():
        dtype = jnp.bfloat16 if name == "bfloat16" else jnp.float32
        # Of random numbers: zeros are multiplied faster.
        keys = jax.random.split(jax.random.key(0))
        x, y = (jax.random.normal(key, (size, size), dtype) for key in keys)
        with jax.default_matmul_precision(precision):
            product = jax.jit(jnp.matmul).lower(x, y).compile()
        run = functools.partial(product, x, y)
        seconds = pairs.repeated({"": run}, 3, round_seconds=round_seconds)[""]
        tflops[name] = 2 * size**3 / min(seconds) / 1e12
    long = jnp.ones(size * size * 8, jnp.float32)
    sweep = jax.jit(lambda x: x + 1.0).lower(long).compile()
    run = functools.partial(sweep, long)
    seconds = pairs.repeated({"": run}, 3, round_seconds=round_seconds)[""]
    moved = 2 * long.nbytes / min(seconds)
    return {"tflops": tflops, "gigabytes_per_second": moved / 1e9}


def step(
    network: str,
    precision: str,
    engine: str,
    noisy_images: int = 0,
    rounds: int = 5,
    round_seconds: float = 0.3,
) -> Line:
    """A batch's private gradient beside its ordinary one, which take turns.

    Args:
        network: a name in ``gpu_problem.NETWORKS``.
        precision: a name in ``PRECISIONS``.
        engine: of ``privacy.clipped_grad``.
        noisy_images: of the batch, B K; 0 for what the device's memory suggests.
        rounds: of each side.
        round_seconds: see ``pairs.repeated``.
    """
    problem = _Problem(network, precision, noisy_images)
    failed: dict[str, str] = {}
    lowered = {}
    for name in ("private", "nonprivate"):
        with _noted(failed, name):
            lowered[name] = problem.lowered(name, engine)
    compiled, seconds_to_compile = _compiled(lowered, failed)
    sides = {}
    for name, program in compiled.items():
        with _noted(failed, name):  # it may want more memory than there is
            jax.block_until_ready(program(*problem.arguments))
            sides[name] = functools.partial(program, *problem.arguments)
    seconds = pairs.repeated(sides, rounds, round_seconds=round_seconds)
    work = problem.work_flops()
    found: Line = {"failed": failed} if failed else {}
    if len(seconds) == 2:
        ratio = pairs.ratio(seconds["private"], seconds["nonprivate"])
        found["private_over_nonprivate"] = ratio
    return {
        **problem.sizes,
        **found,
        "engine_used": problem.engine_used(engine),
        "seconds": {name: pairs.spread(s) for name, s in seconds.items()},
        "images_per_second": {
            name: pairs.spread([problem.batch_size / x for x in s])
            for name, s in seconds.items()
        },
        "work_flops": work,
        "work_tflops": {name: work / min(s) / 1e12 for name, s in seconds.items()},
        "compiled_flops": {name: _flops(p) for name, p in compiled.items()},
        "compiled_bytes": {
            name: program_memory(p)["peak"] for name, p in compiled.items()
        },
        "compile_seconds": seconds_to_compile,
    }


def memory(network: str, precision: str, side: str, noisy_images: int = 0) -> Line:
    """The most memory that is in use while one gradient is worked out.

    Args:
        network: see ``step``.
        precision: see ``step``.
        side: "private" or "nonprivate".
        noisy_images: see ``step``.
    """
    problem = _Problem(network, precision, noisy_images)
    failed: dict[str, str] = {}
    compiled, _ = _compiled({side: problem.lowered(side, "auto")}, failed)
    if failed:
        return {**problem.sizes, "error": failed[side]}
    jax.block_until_ready(compiled[side](*problem.arguments))
    stats = jax.devices()[0].memory_stats()
    found = {
        **problem.sizes,
        "compiled_bytes": program_memory(compiled[side])["peak"],
        "peak_bytes": (stats or {}).get("peak_bytes_in_use"),
    }
    if stats is None:
        found["no_peak_bytes"] = "the device counts none"
    return found


def sampling(
    network: str,
    precision: str,
    num_steps: int = 50,
    batch_size: int = 1024,
    rounds: int = 3,
) -> Line:
    """Images a second of deterministic DDIM, as ``--mode=sample`` makes them.

    Args:
        network: see ``step``.
        precision: see ``step``.
        num_steps: network calls an image.
        batch_size: images of a call.
        rounds: of a call each.
    """
    config, model = _model(network, precision)
    with _multiplied(precision):
        run = jax_steps.sampling(config, model, batch_size, num_steps)
        seconds = pairs.interleaved({"sampling": run}, rounds)["sampling"]
    rates = [batch_size / s for s in seconds]
    return {
        "batch_size": batch_size,
        "num_steps": num_steps,
        "images_per_second": {"sampling": pairs.spread(rates)},
    }


class _Problem:
    """A network's batch, and the programs of its gradients."""

    def __init__(self, network: str, precision: str, noisy_images: int) -> None:
        self._precision = precision
        self._config, self._model = _model(network, precision)
        multiplicity = self._config.diffusion.noise_multiplicity
        noisy_images = noisy_images or gpu_problem.noisy_images(
            (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
        )
        self.batch_size = max(1, noisy_images // multiplicity)
        self._noisy_images = self.batch_size * multiplicity
        self.sizes: Line = {
            "batch_size": self.batch_size,
            "noise_multiplicity": multiplicity,
            "parameters": self._model.num_parameters,
        }
        batch = jax_steps.batch(self.batch_size, self._model.sample_shape)
        self.arguments = (self._model.init(jax.random.key(0)), *batch)

    def lowered(self, side: str, engine: str) -> jax.stages.Lowered:
        """The program of a side, which is "private" or "nonprivate"."""
        gradient = (
            jax_steps.private(self._model.loss(), engine=engine)
            if side == "private"
            else jax_steps.nonprivate(self._model)
        )
        with _multiplied(self._precision):
            return jax.jit(gradient).lower(*self.arguments)

    def engine_used(self, engine: str) -> str:
        """What "auto" stands for here."""
        if engine != "auto":
            return engine
        platform, count = jax.default_backend(), self._model.num_parameters
        return choose_engine(platform, self.batch_size, count)[0]

    def work_flops(self) -> float:
        """Operations of a forward and a backward pass of all noisy images."""
        # There the lowered program has no calls of libraries, whose work XLA may miss.
        on_cpu: contextlib.AbstractContextManager = contextlib.nullcontext()
        with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the CPU out
            on_cpu = jax.default_device(jax.local_devices(backend="cpu")[0])
        with on_cpu:
            forward, _ = planning.forward_cost(self._config, self._model)
        return forward * planning.gradient_passes(self._model) * self._noisy_images


def _model(network: str, precision: str) -> tuple[ml_collections.ConfigDict, Model]:
    config = gpu_problem.load_config(network)
    config.network.dtype = PRECISIONS[precision][0]
    return config, finetune_problem.load_model(config)


def _multiplied(precision: str) -> Any:
    return jax.default_matmul_precision(PRECISIONS[precision][1])


@contextlib.contextmanager
def _noted(failed: dict[str, str], name: str) -> Iterator[None]:
    """Notes what a side raises, so that the others are measured."""
    try:
        yield
    except Exception as e:
        failed[name] = _in_words(e)


def _in_words(error: Exception) -> str:
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0][:500]}"


def _compiled(
    lowered: dict[str, jax.stages.Lowered], failed: dict[str, str]
) -> tuple[dict[str, jax.stages.Compiled], float]:
    """Compiles side by side, which takes the time of the slowest."""
    start = time.perf_counter()
    programs = {}
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        coming = {
            name: threads.submit(program.compile) for name, program in lowered.items()
        }
    for name, future in coming.items():
        with _noted(failed, name):
            programs[name] = future.result()
    return programs, round(time.perf_counter() - start, 1)


def _flops(compiled: jax.stages.Compiled) -> float | None:
    """What the compiler says; it counts a loop's body once where it may not know."""
    try:
        cost = compiled.cost_analysis()
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return (cost or {}).get("flops")


def run(tasks: Sequence[dict[str, Any]]) -> Iterator[Line]:
    """Does tasks.

    Args:
        tasks: "task", the name of a function here, or behind "torch_" of one in
            ``gpu_torch``; and its arguments.

    Yields:
        A line for each.
    """
    for task in tasks:
        name, arguments = task["task"], {k: v for k, v in task.items() if k != "task"}
        try:
            if name.startswith("torch_"):
                module = importlib.import_module(f"{__package__}.gpu_torch")
                found = getattr(module, name.removeprefix("torch_"))(**arguments)
            else:
                found = globals()[name](**arguments)
        except Exception as e:  # whatever it is, the next figures are to be had
            found = {"error": _in_words(e)}
        yield task | found


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no figure
    for line in run(json.loads(sys.argv[1])):
        print(json.dumps(line), file=answers, flush=True)
