"""What noise multiplicity does to an image's gradient, at a release's weights.

python -m experiments.ablations.gradients --data=FOLDER [--release=mnist_eps10]

FOLDER holds the IDX files of the data that the release was trained on. For each K, an
image's gradient is taken twice with independent draws. Prints one JSON object with, for
each K: the variance of the gradient over its draws, summed over weights and averaged
over images; the median norm; and how long the mean of the gradients is once each is
scaled to length 1. That mean is the signal that private training adds its noise to.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp

from dpdm_jax import load_release
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import image_sets
from dpdm_jax.release.model import ReleasedModel
from experiments.benchmarks import machine
from experiments.mnist_cpu.runs import RELEASES, RUNS

_BATCH = 50


class Pair(NamedTuple):
    """Two gradients of each of some images, as rows: float32 [n, weights]."""

    first: jax.Array
    second: jax.Array


def gradients(
    released: ReleasedModel,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    k: int,
) -> Iterator[Pair]:
    """Gradients of images' losses with K draws each, some images at a time.

    Args:
        released: model and weights.
        images: uint8 [n, h, w, c].
        labels: int32 [n].
        key: of the draws.
        k: noise multiplicity.

    Yields:
        Two gradients with independent draws, of ``_BATCH`` images or fewer.
    """
    draws = dataclasses.replace(
        released.model.draws, noise_multiplicity=k, stratified=False, draws_at_once=0
    )
    loss = dataclasses.replace(released.model, draws=draws).loss()

    @jax.jit
    @jax.vmap
    def gradient(image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        example = {"image": image, "condition": label}
        tree = jax.grad(loss)(released.params, example, key)
        return jax.flatten_util.ravel_pytree(tree)[0]

    keys = jax.random.split(key, (2, len(images)))
    for start in range(0, len(images), _BATCH):
        rows = slice(start, start + _BATCH)
        yield Pair(*(gradient(images[rows], labels[rows], one[rows]) for one in keys))


def summary(pairs: Iterable[Pair]) -> dict[str, float]:
    """Compares the gradients of each image, and those of different images.

    Args:
        pairs: of all images.

    Returns:
        variance, median_norm and signal, as the head of this file says.
    """
    squares, norms, mean = [], [], 0.0
    for first, second in pairs:
        squares.append(jnp.sum((first - second) ** 2, axis=1) / 2)
        norms.append(jnp.linalg.norm(first, axis=1))
        mean += jnp.sum(first / norms[-1][:, None], axis=0)
    n = sum(len(part) for part in norms)
    # Of the n^2 products of two, the n of an image with itself are 1: left out, the
    # rest estimate the squared length of the mean without bias.
    squared = (jnp.vdot(mean, mean) - n) / (n * (n - 1))
    return {
        "variance": float(jnp.mean(jnp.concatenate(squares))),
        "median_norm": float(jnp.median(jnp.concatenate(norms))),
        "signal": float(jnp.sqrt(jnp.maximum(squared, 0))),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measures every K and prints."""
    parser = argparse.ArgumentParser(prog="python -m experiments.ablations.gradients")
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--release", choices=RUNS, default="mnist_eps10")
    parser.add_argument("--draws", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        real = image_sets.load(str(arguments.data))
        released = load_release(RELEASES / arguments.release)
    except InputError as e:
        parser.error(str(e))
    recorder = machine.Recorder()
    images = jnp.asarray(real.images[: arguments.images])
    labels = jnp.asarray(real.labels[: arguments.images], jnp.int32)
    key = jax.random.key(arguments.seed)
    rows: list[dict[str, Any]] = []
    for k in arguments.draws:
        found = summary(gradients(released, images, labels, key, k))
        rows.append({"noise_multiplicity": k} | found)
    asked = {"release": arguments.release, "images": len(images)}
    print(json.dumps(asked | {"rows": rows} | recorder.record(), indent=1))


if __name__ == "__main__":
    main()
