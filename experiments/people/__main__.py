"""The price of protecting a person: accuracy against images a person, one epsilon.

python -m experiments.people [--images 1 2 4 8] [--workdir=DIR]

scikit-learn's digits are given to synthetic writers with so many images each. Every run
trains on all of them, samples and is evaluated in a directory of its own below
--workdir; started again, finished ones are not repeated. Prints one JSON object.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpdm_jax import data, run_dir, settings
from dpdm_jax.configs import digits
from dpdm_jax.evaluation.run import evaluate
from dpdm_jax.privacy import read_ledger
from dpdm_jax.training.loop import train
from experiments.benchmarks import machine

#: What is set beside ``digits.network_alone``: half of its epochs, fewer noise draws.
FIELDS: dict[str, Any] = {
    "data.source": "npz",
    "data.num_examples": 0,
    "data.group": "writer",
    "diffusion.noise_multiplicity": 4,
    "train.epochs": 100,
    "train.microbatch_size": 180,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
    "sample.num_images": 2000,
    "evaluate.metrics": ("mlp",),
    "evaluate.dp_sgd.epochs": 0,
}


def writers(labels: np.ndarray, count: int, kind: str, seed: int = 0) -> np.ndarray:
    """Invents whose images are.

    Args:
        labels: int [n], of the images.
        count: images of each writer, >= 1; the last one may have fewer.
        kind: "mixed", any images; or "alike", images of one digit.
        seed: of the choice.

    Returns:
        Int64 [n], the writer of each image.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if kind == "alike":
        order = order[np.argsort(labels[order], kind="stable")]
    found = np.empty(len(labels), np.int64)
    found[order] = np.arange(len(labels)) // count
    return found


def run(count: int, kind: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains on writers of so many images, samples and evaluates.

    Args:
        count: images of a writer.
        kind: see ``writers``.
        workdir: of the run; what is finished there is not repeated.

    Returns:
        A row of the table.
    """
    config = digits.network_alone()
    sources = {
        split: data.load_source(config.data, split) for split in ("train", "test")
    }
    workdir.mkdir(parents=True, exist_ok=True)
    for split, source in sources.items():
        examples = source.examples(np.arange(len(source)))
        labels = examples["condition"]
        np.savez(
            workdir / f"{split}.npz",
            images=examples["image"],
            labels=labels,
            writer=writers(labels, count, kind),
        )
    number = -(-len(sources["train"]) // count)
    fields = FIELDS | {
        "data.path": str(workdir),
        "train.images_per_group": count,
        # As many people a step, of all, as digits has images: half.
        "train.batch_size": (number + 1) // 2,
        # As many images in a call of the gradient.
        "train.microbatch_size": FIELDS["train.microbatch_size"] // count,
    }
    for name, value in fields.items():
        settings.assign(config, name, value)
    result = workdir / run_dir.EVALUATION / "samples.json"
    if not result.exists():
        train(config, workdir)
        evaluate(config, workdir)
    measured = json.loads(result.read_text())
    plan = read_ledger(workdir / run_dir.LEDGER).plan
    return {
        "images_per_writer": count,
        "kind": kind,
        "writers": plan.num_examples,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "noise_over_batch": plan.noise_multiplier / plan.expected_batch_size,
        "mlp": measured["mlp"],
        "mlp_std": measured["mlp_std"],
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the comparison and prints its rows."""
    parser = argparse.ArgumentParser(prog="python -m experiments.people")
    parser.add_argument("--images", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--kinds", nargs="+", default=["mixed", "alike"])
    parser.add_argument("--workdir", type=pathlib.Path, default="runs/people")
    arguments = parser.parse_args(argv)
    recorder = machine.Recorder()
    rows = [
        run(count, kind, arguments.workdir / f"{kind},images={count}")
        for count in arguments.images
        # Of one image each, writers are the same.
        for kind in (arguments.kinds if count > 1 else arguments.kinds[:1])
    ]
    result = {"fields": FIELDS, "rows": rows} | recorder.record()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
