"""Samples a committed release and trains the protocol's CNN on the images.

python -m experiments.mnist_cpu.check --data=FOLDER [--release=mnist_eps10]

FOLDER holds the IDX files of the data that the release was trained on. Prints one JSON
line: accuracy on the real test images, and fid_lenet. ``--without-network`` samples by
the measured moments of the classes alone.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

import jax  # noqa: E402
import numpy as np  # noqa: E402

from dpdm_jax import load_release, run_dir  # noqa: E402
from dpdm_jax.errors import InputError  # noqa: E402
from dpdm_jax.evaluation import downstream, image_sets, metrics  # noqa: E402
from dpdm_jax.evaluation.settings import Settings  # noqa: E402
from dpdm_jax.release.model import ReleasedModel  # noqa: E402
from experiments.benchmarks import machine  # noqa: E402
from experiments.mnist_cpu.runs import RELEASES, RUNS  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Samples, trains, tests and prints."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mnist_cpu.check")
    parser.add_argument("--data", required=True)
    parser.add_argument("--release", choices=RUNS, default="mnist_eps10")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifier", default="cnn")
    parser.add_argument("--preset", help="sampler preset of the release")
    parser.add_argument("--without-network", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        real, test = (image_sets.load(f"{arguments.data}{s}") for s in ("", ":test"))
        released = load_release(RELEASES / arguments.release)
        if arguments.without_network:
            _remove_network(released)
    except InputError as e:
        parser.error(str(e))
    recorder = machine.Recorder()
    result = {
        "release": arguments.release,
        "without_network": arguments.without_network,
    } | check(
        released,
        real,
        test,
        images=arguments.images,
        seed=arguments.seed,
        classifier=arguments.classifier,
        preset=arguments.preset,
    )
    print(json.dumps(result | recorder.record()))


def _remove_network(released: ReleasedModel) -> None:
    """Makes the network predict zeros: the linear denoiser of Gaussian classes."""
    if released.model.num_trained == released.model.num_parameters:
        name = released.config.diffusion.parameterization
        raise InputError(
            f"the release's diffusion.parameterization is {name!r}, which measures no "
            "moments; allowed with --without-network: 'edm_moments'."
        )
    weights = jax.tree.map(np.zeros_like, released.params["network"])
    released.params = released.params | {"network": weights}


def find(releases: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the folder of a release.

    Args:
        releases: folder of the committed ones.
        name: of one of them, or the path of another.
    """
    committed = {path.name: path for path in releases.iterdir()}
    return committed.get(name, pathlib.Path(name))


def label(folder: pathlib.Path) -> str:
    """Returns what a release is called in a result: a run's own by its run."""
    return folder.parent.name if folder.name == run_dir.RELEASE else folder.name


def check(
    released: ReleasedModel,
    real: image_sets.ImageSet,
    test: image_sets.ImageSet,
    *,
    images: int,
    seed: int,
    classifier: str,
    others: Sequence[str] = (),
    preset: str | None = None,
    cache_folder: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Samples a release and trains a classifier on the images.

    Args:
        released: what is sampled.
        real: training images, for ``fid_lenet``.
        test: what the classifier is tested on.
        images: how many are sampled.
        seed: of samples and classifier.
        classifier: name of its recipe.
        others: further classifiers, which are trained on the same images.
        preset: sampler preset of the release; None for its own sampler.
        cache_folder: keeps what ``fid_lenet`` learns of the real images; None for not.

    Returns:
        Budget, accuracy, that of ``others`` by name, ``fid_lenet`` with its floor, and
        seconds of sampling.
    """
    start = time.perf_counter()
    made, labels = released.sample(images, seed=seed, preset=preset)
    sampling_seconds = round(time.perf_counter() - start, 1)
    accuracy = {
        name: downstream.downstream_accuracy(
            name,
            *downstream.set_apart((made, labels)),
            (test.images, test.labels),
            test.num_classes,
            seeds=(seed,),
        ).mean
        for name in (classifier, *others)
    }
    samples = image_sets.ImageSet("samples", made, labels, test.num_classes)
    settings = Settings(seed=seed, cache_folder=cache_folder)
    distance = metrics.measure(["fid_lenet"], real, samples, settings=settings)
    return {
        "epsilon": released.privacy["epsilon"],
        "delta": released.privacy["delta"],
        "images": len(made),
        "seed": seed,
        "classifier": classifier,
        "accuracy": accuracy[classifier],
        "others": {name: accuracy[name] for name in others},
        "fid_lenet": distance["fid_lenet"],
        "fid_lenet_floor": distance["fid_lenet_floor"],
        "sampling_seconds": sampling_seconds,
    }


if __name__ == "__main__":
    main()
