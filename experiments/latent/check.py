"""Trains the protocol's CNN on samples of a committed release.

python -m experiments.latent.check --data=FOLDER --release=mnist_eps10

FOLDER holds MNIST's IDX files. Prints one JSON line: accuracy on MNIST's real test
images, and ``fid_lenet`` of samples. The release ``glyphs`` is the public model alone;
the path of any other release is allowed as well.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

from dpdm_jax import load_release  # noqa: E402
from dpdm_jax.errors import InputError  # noqa: E402
from dpdm_jax.evaluation import image_sets  # noqa: E402
from experiments.benchmarks import machine  # noqa: E402
from experiments.mnist_cpu import check as of_release  # noqa: E402

RELEASES = pathlib.Path(__file__).parent / "releases"


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, tests and prints."""
    parser = argparse.ArgumentParser(prog="python -m experiments.latent.check")
    parser.add_argument("--data", required=True)
    parser.add_argument("--release", required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cnn-alone", action="store_true", help="no other classifiers")
    arguments = parser.parse_args(argv)
    folder = of_release.find(RELEASES, arguments.release)
    recorder = machine.Recorder()
    try:
        real, test = (image_sets.load(f"{arguments.data}{s}") for s in ("", ":test"))
        result = of_release.check(
            load_release(folder),
            real,
            test,
            images=arguments.images,
            seed=arguments.seed,
            classifier="cnn",
            others=() if arguments.cnn_alone else ("logreg", "mlp"),
        )
    except InputError as e:
        parser.error(str(e))
    print(
        json.dumps({"release": of_release.label(folder)} | result | recorder.record())
    )


if __name__ == "__main__":
    main()
