"""Classifiers trained on real images, by DP-SGD and without privacy.

python -m experiments.table_2 --data=FOLDER [--epsilons 10 inf] [--classifiers cnn]

Table 2 of DPDM (Dockhorn et al., 2023, arXiv 2210.09929) compares them with classifiers
trained on private samples. FOLDER holds MNIST's IDX files, or Fashion-MNIST's. Progress
goes to standard error, the result to standard output: one JSON object.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Sequence

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

from dpdm_jax.errors import InputError  # noqa: E402
from dpdm_jax.evaluation import downstream, dp_sgd, image_sets, registry  # noqa: E402
from experiments.benchmarks import machine  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Trains every classifier at every epsilon and prints what it reaches."""
    parser = argparse.ArgumentParser(prog="python -m experiments.table_2")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument(
        "--epsilons", nargs="+", type=float, default=[0.2, 1.0, 10.0, math.inf]
    )
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--classifiers", nargs="+", default=["logreg", "mlp", "cnn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--epochs", type=int, help="of each training; the recipes' own unless given"
    )
    arguments = parser.parse_args(argv)
    try:
        train = image_sets.load(str(arguments.data))
        test = image_sets.load(f"{arguments.data}:test")
    except InputError as e:
        parser.error(str(e))
    recorder = machine.Recorder()
    rows = []
    for name in arguments.classifiers:
        for epsilon in arguments.epsilons:
            start = time.perf_counter()
            result = _trained(name, epsilon, train, test, arguments)
            seconds = round(time.perf_counter() - start, 1)
            # JSON has no infinity.
            private = {"epsilon": epsilon if math.isfinite(epsilon) else None}
            rows.append(private | result.to_dict() | {"seconds": seconds})
            print(
                f"{name} at epsilon {epsilon:g}: {result.mean:.2%} in {seconds:.0f} s",
                file=sys.stderr,
            )
    result = {"data": arguments.data.name, "rows": rows}
    print(json.dumps(result | recorder.record(), indent=1))


def _trained(
    name: str,
    epsilon: float,
    train: image_sets.ImageSet,
    test: image_sets.ImageSet,
    arguments: argparse.Namespace,
) -> downstream.DownstreamResult:
    real, real_test = ((s.images, s.labels) for s in (train, test))
    epochs = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    if math.isfinite(epsilon):
        settings = dp_sgd.DPSGD(epsilon, arguments.delta, **epochs)
        return dp_sgd.dp_sgd_accuracy(
            name, real, real_test, train.num_classes, settings, seeds=arguments.seeds
        )
    recipe = dataclasses.replace(registry.recipe(name), **epochs)
    return downstream.downstream_accuracy(
        name,
        *downstream.set_apart(real),
        real_test,
        train.num_classes,
        seeds=arguments.seeds,
        recipe=recipe,
    )


if __name__ == "__main__":
    main()
