"""Classifiers trained on real images by DP-SGD, and on samples of a private generator.

python -m experiments.table_2 --data=FOLDER [--epsilons 10 inf] [--classifiers cnn]
python -m experiments.table_2 --data=FOLDER --release=mnist_eps10

Table 2 of DPDM (Dockhorn et al., 2023, arXiv 2210.09929) compares the two. FOLDER holds
MNIST's IDX files, or Fashion-MNIST's; epsilon inf is training without privacy. With
--release the samples of a release of ``experiments.mnist_cpu`` take the real training
images' place. Progress goes to standard error, the result to standard output: one JSON
object.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

from dpdm_jax import load_release  # noqa: E402
from dpdm_jax.errors import InputError  # noqa: E402
from dpdm_jax.evaluation import downstream, dp_sgd, image_sets, registry  # noqa: E402
from experiments.benchmarks import machine  # noqa: E402
from experiments.mnist_cpu.runs import RELEASES, RUNS  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Trains every classifier at every epsilon and prints what it reaches."""
    parser = argparse.ArgumentParser(prog="python -m experiments.table_2")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--epsilons", nargs="+", type=float, default=[0.2, 1.0, 10.0, math.inf]
    )
    source.add_argument("--release", choices=RUNS, help="of experiments.mnist_cpu")
    parser.add_argument("--delta", type=float, default=1e-5, help="of DP-SGD")
    parser.add_argument("--images", type=int, default=20_000, help="of the release")
    parser.add_argument("--classifiers", nargs="+", default=["logreg", "mlp", "cnn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--epochs", type=int, help="of each training; the recipes' own unless given"
    )
    arguments = parser.parse_args(argv)
    recorder = machine.Recorder()
    epsilons, source_of_images = arguments.epsilons, {}
    try:
        test = image_sets.load(f"{arguments.data}:test")
        if arguments.release is None:
            train = image_sets.load(str(arguments.data))
        else:
            # What is made of private samples costs no more privacy.
            epsilons = [math.inf]
            train, source_of_images = _samples(arguments, test.num_classes)
    except InputError as e:
        parser.error(str(e))
    rows = []
    for name in arguments.classifiers:
        for epsilon in epsilons:
            start = time.perf_counter()
            trained = _trained(name, epsilon, train, test, arguments)
            seconds = round(time.perf_counter() - start, 1)
            # JSON has no infinity.
            private = {"epsilon": epsilon if math.isfinite(epsilon) else None}
            rows.append(private | trained.to_dict() | {"seconds": seconds})
            print(
                f"{name} at epsilon {epsilon:g}: {trained.mean:.2%} in {seconds:.0f} s",
                file=sys.stderr,
            )
    result = {"data": arguments.data.name} | source_of_images | {"rows": rows}
    print(json.dumps(result | recorder.record(), indent=1))


def _samples(
    arguments: argparse.Namespace, num_classes: int
) -> tuple[image_sets.ImageSet, dict[str, Any]]:
    """Samples the release; returns the images and whose they are."""
    released = load_release(RELEASES / arguments.release)
    made = released.sample(arguments.images, seed=arguments.seeds[0])
    budget = {key: float(released.privacy[key]) for key in ("epsilon", "delta")}
    source = {"release": arguments.release, "release_budget": budget}
    return image_sets.ImageSet("samples", *made, num_classes), source


def _trained(
    name: str,
    epsilon: float,
    train: image_sets.ImageSet,
    test: image_sets.ImageSet,
    arguments: argparse.Namespace,
) -> downstream.DownstreamResult:
    images, real_test = ((s.images, s.labels) for s in (train, test))
    epochs = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    if math.isfinite(epsilon):
        settings = dp_sgd.DPSGD(epsilon, arguments.delta, **epochs)
        return dp_sgd.dp_sgd_accuracy(
            name, images, real_test, train.num_classes, settings, seeds=arguments.seeds
        )
    recipe = dataclasses.replace(registry.recipe(name), **epochs)
    return downstream.downstream_accuracy(
        name,
        *downstream.set_apart(images),
        real_test,
        train.num_classes,
        seeds=arguments.seeds,
        recipe=recipe,
    )


if __name__ == "__main__":
    main()
