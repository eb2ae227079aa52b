"""Trains classifiers on samples of a committed release, or on its public data.

python -m experiments.finetune.check --data=FOLDER --release=mnist_eps10
python -m experiments.finetune.check --data=FOLDER --fonts=FONTS

FOLDER holds MNIST's IDX files. Prints one JSON line: accuracy on MNIST's real test
images, of the protocol's CNN and of others, and ``fid_lenet`` of samples. The release
``glyphs`` is the public model alone; the path of any other is allowed. With ``--fonts``
the CNN alone is trained, and on no samples, but on the rendered glyphs that this model
was trained on: FONTS is a folder of font files, "" for matplotlib's.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

import numpy as np  # noqa: E402

from dpdm_jax import data, load_release  # noqa: E402
from dpdm_jax.configs import glyphs_public  # noqa: E402
from dpdm_jax.errors import InputError  # noqa: E402
from dpdm_jax.evaluation import downstream, image_sets  # noqa: E402
from experiments.benchmarks import machine  # noqa: E402
from experiments.mnist_cpu import check as of_release  # noqa: E402

RELEASES = pathlib.Path(__file__).parent / "releases"
_CLASSIFIER = "cnn"
_OTHERS = ("logreg", "mlp")


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, tests and prints."""
    parser = argparse.ArgumentParser(prog="python -m experiments.finetune.check")
    parser.add_argument("--data", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--release")
    what.add_argument("--fonts")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    recorder = machine.Recorder()
    try:
        real, test = (image_sets.load(f"{arguments.data}{s}") for s in ("", ":test"))
        if arguments.release is None:
            result = _of_glyphs(
                arguments.fonts, test, images=arguments.images, seed=arguments.seed
            )
        else:
            folder = of_release.find(RELEASES, arguments.release)
            result = {"release": of_release.label(folder)} | of_release.check(
                load_release(folder),
                real,
                test,
                images=arguments.images,
                seed=arguments.seed,
                classifier=_CLASSIFIER,
                others=_OTHERS,
            )
    except InputError as e:
        parser.error(str(e))
    print(json.dumps(result | recorder.record()))


def _of_glyphs(
    fonts: str, test: image_sets.ImageSet, *, images: int, seed: int
) -> dict[str, Any]:
    """Accuracy of the CNN that is trained on rendered glyphs.

    Args:
        fonts: a folder of font files, "" for matplotlib's.
        test: what the classifier is tested on.
        images: how many glyphs it is trained on, a fifth of them to select the epoch.
        seed: of the choice of glyphs and of the classifier.
    """
    config = glyphs_public.get_config()
    config.data.path = fonts
    source = data.load_source(config.data, "train")
    order = np.random.default_rng(seed).permutation(len(source))[:images]
    glyphs = source.examples(order)
    accuracy = downstream.downstream_accuracy(
        _CLASSIFIER,
        *downstream.set_apart((glyphs["image"], glyphs["condition"])),
        (test.images, test.labels),
        test.num_classes,
        seeds=(seed,),
    )
    return {
        "glyphs": len(order),
        "seed": seed,
        "classifier": _CLASSIFIER,
        "accuracy": accuracy.mean,
    }


if __name__ == "__main__":
    main()
