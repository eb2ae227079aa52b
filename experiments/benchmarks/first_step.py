"""The wait for the first training step on a CPU, from the command to its metrics.

python -m experiments.benchmarks.first_step --json

Runs ``python -m dpdm_jax.main`` on the MNIST network, in new processes: cold with an
empty compilation cache, warm with the cache that the cold run left, and beside them the
plain port of ``plain_port``, which compiles anew. To keep the step itself short a batch
has 4 examples on average, is padded to 8 and has 8 noise draws an example; the plan is
the published one (q = 1/15, 4500 steps) unless other data is given.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from dpdm_jax import settings
from experiments.benchmarks import machine, pairs, problem

_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_MICROBATCH, _MULTIPLICITY, _BATCH = 8, 8, 4
# Of a run with these fixed keys the first batch is neither empty nor above 8 examples.
_FIXED_KEYS_SEED = 0
_POLL_SECONDS = 0.01
# Without calibration and TensorBoard, which are parts of the wait and of no interest to
# a smoke test.
_QUICK_PLAN = (
    "--config.train.num_steps=2",
    "--config.privacy.noise_multiplier=1.0",
    "--config.log.tensorboard=False",
)


def time_main(flags: Sequence[str], workdir: pathlib.Path, cache: pathlib.Path) -> dict:
    """Trains for one step in a new process.

    Args:
        flags: of ``dpdm_jax.main``, beside those of this benchmark.
        workdir: a run directory that does not exist yet.
        cache: folder of compiled programs.

    Returns:
        Seconds to the step's line of metrics ("first_step") and to the process's end
        ("process").
    """
    command = [
        *(sys.executable, "-m", "dpdm_jax.main", "--mode=train"),
        "--config=configs/mnist.py:eps=10",
        f"--workdir={workdir}",
        "--config.train.stop_after_steps=1",
        "--config.train.num_steps=4500",
        f"--config.train.batch_size={_BATCH}",
        f"--config.train.microbatch_size={_MICROBATCH}",
        f"--config.diffusion.noise_multiplicity={_MULTIPLICITY}",
        f"--config.privacy.fixed_keys_seed={_FIXED_KEYS_SEED}",
        *flags,
    ]
    environment = _environment() | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    metrics = workdir / "metrics.jsonl"
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=_CHECKOUT, env=environment, stdout=subprocess.DEVNULL
    )
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} took no step; see above.")
        time.sleep(_POLL_SECONDS)
    first_step = time.perf_counter() - start
    if process.wait():
        raise RuntimeError(f"{' '.join(command)} failed; see above.")
    return {"first_step": first_step, "process": time.perf_counter() - start}


def time_plain_port(network: str) -> float:
    """Seconds to the end of the plain port's first step, without flags or cache."""
    size = [network, str(_MICROBATCH), str(_MULTIPLICITY)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.plain_port", *size],
        cwd=_CHECKOUT,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    if process.wait() or line.strip() != "done":
        raise RuntimeError("The plain port took no step; see above.")
    return seconds


def _environment() -> dict[str, str]:
    """This process's, less what it says about compiling, on the CPU."""
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        environment.pop(name, None)
    return environment


def measure(
    network: str, data: str | None, num_pairs: int, overrides: Sequence[str] = ()
) -> dict:
    """Times rounds of a cold run, a warm one and the plain port.

    Args:
        network: a name in ``problem.NETWORKS``.
        data: folder of IDX files; None for 60 random images.
        num_pairs: rounds.
        overrides: further flags of ``dpdm_jax.main``.
    """
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        changed = {"network": problem.NETWORKS[network]}
        flags = [
            f"--config.{name}={settings.lookup(changed, name)}"
            for name in settings.names(changed)
        ]
        flags += overrides
        if data is None:
            data = folder / "images.npz"
            _write_random_images(data)
            flags += ["--config.data.source=npz", "--config.data.num_examples=60"]
        else:
            flags += ["--config.data.source=idx"]
        flags.append(f"--config.data.path={pathlib.Path(data).resolve()}")
        for i in range(num_pairs):
            cache = folder / f"cache_{i}"
            for name in ("cold", "warm"):
                times = time_main(flags, folder / f"{name}_{i}", cache)
                seconds.setdefault(name, []).append(times["first_step"])
                seconds.setdefault(f"{name}_process", []).append(times["process"])
            seconds.setdefault("plain_port", []).append(time_plain_port(network))
    return {
        "seconds": {name: pairs.spread(values) for name, values in seconds.items()},
        "cold_over_plain_port": pairs.ratio(seconds["cold"], seconds["plain_port"]),
    }


def _write_random_images(path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, *problem.IMAGE_SHAPE), np.uint8)
    np.savez(path, images=images, labels=np.arange(60) % problem.NUM_CLASSES)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=3, help="rounds")
    parser.add_argument("--data", help="folder of MNIST's IDX files")
    parser.add_argument("--network", choices=problem.CONVOLUTIONAL, default="mnist")
    parser.add_argument("--quick", action="store_true", help="a tiny network, one pair")
    options = parser.parse_args(argv)
    overrides: tuple[str, ...] = ()
    if options.quick:
        options.network, options.pairs = "least", 1
        overrides = _QUICK_PLAN

    before = machine.state()
    result = measure(options.network, options.data, options.pairs, overrides)
    conditions = {"before": before, "after": machine.state()}
    ratio = result["cold_over_plain_port"]
    if not options.json:
        for name, seconds in result["seconds"].items():
            print(f"{name:<20} {pairs.in_words(seconds)} s")
        print(f"cold_over_plain_port {pairs.in_words(ratio)}")
        return
    seconds = result["seconds"]
    print(
        json.dumps(
            {
                "benchmark": "first_step",
                "cold_seconds": seconds["cold"]["median"],
                "warm_seconds": seconds["warm"]["median"],
                "plain_port_seconds": seconds["plain_port"]["median"],
                "cold_over_plain_port": ratio["median"],
                "measured": result,
                "network": options.network,
                "batch": {
                    "expected": _BATCH,
                    "padded": _MICROBATCH,
                    "noise_multiplicity": _MULTIPLICITY,
                },
                "conditions": conditions,
                "machine": machine.describe(),
            }
        )
    )


if __name__ == "__main__":
    main()
