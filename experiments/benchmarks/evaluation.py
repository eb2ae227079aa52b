"""Seconds that judging 10,000 images takes: ours beside PyTorch.

python -m experiments.benchmarks.evaluation --json
"""

import argparse
import contextlib
import importlib.util
import json
from collections.abc import Sequence

from experiments.benchmarks import evaluation_problem as problem
from experiments.benchmarks import machine, pairs, worker

_EPOCHS = 50  # the protocol's
_NUM_TEST = 10_000


def measure(
    num_images: int, num_features: int, num_test: int, epochs: int, num_pairs: int
) -> dict:
    """Times both sides; without PyTorch or pytorch-fid only ours.

    Features cost the same for every image and epochs the same each, so that a part of
    both stands for all of it.

    Args:
        num_images: to judge.
        num_features: of them, those whose features are computed.
        num_test: images that the classifiers are tested on.
        epochs: of each classifier, in place of the protocol's 50.
        num_pairs: rounds.

    Returns:
        Seconds of each part, seconds of the whole and, if there are both sides, ratios.
    """
    work = {
        "num_images": num_images,
        "num_features": num_features,
        "num_test": num_test,
        "epochs": epochs,
    }
    builders = [f"{__package__}.evaluation_sides:sides"]
    if all(importlib.util.find_spec(name) for name in ("torch", "pytorch_fid")):
        builders.append(f"{__package__}.torch_evaluation:sides")
    with contextlib.ExitStack() as processes:
        built = [
            processes.enter_context(worker.Worker(builder, **work)).sides
            for builder in builders
        ]
        # A part of one is followed by the same part of the other.
        sides = {
            name: run
            for both in zip(*(side.items() for side in built), strict=True)
            for name, run in both
        }
        seconds = pairs.interleaved(sides, num_pairs)
    parts = ("features", *problem.CLASSIFIERS)
    scale = dict.fromkeys(problem.CLASSIFIERS, _EPOCHS / epochs)
    scale["features"] = num_images / num_features
    whole = {
        side: [
            sum(scale[part] * seconds[f"{side}_{part}"][i] for part in parts)
            for i in range(num_pairs)
        ]
        for side in ("ours", "torch")[: len(built)]
    }
    result = work | {
        "seconds": {name: pairs.spread(values) for name, values in seconds.items()},
        "seconds_of_all": {name: pairs.spread(v) for name, v in whole.items()},
        "pairs": num_pairs,
    }
    if "torch" in whole:
        result["ours_over_torch"] = pairs.ratio(whole["torch"], whole["ours"])
        result["parts"] = {
            part: pairs.ratio(seconds[f"torch_{part}"], seconds[f"ours_{part}"])
            for part in parts
        }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=3, help="rounds")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=400, help="images of those")
    parser.add_argument("--epochs", type=int, default=10, help="of the protocol's 50")
    parser.add_argument("--quick", action="store_true", help="tiny work, one pair")
    options = parser.parse_args(argv)
    num_test = _NUM_TEST
    if options.quick:
        options.images, options.features, options.epochs, options.pairs = 100, 1, 1, 1
        num_test = 20  # as many as select the epoch

    before = machine.state()
    result = measure(
        options.images, options.features, num_test, options.epochs, options.pairs
    )
    conditions = {"before": before, "after": machine.state()}
    if not options.json:
        for name, values in result["seconds"].items():
            print(f"{name:<16} {pairs.in_words(values)} s")
        for name, values in result["seconds_of_all"].items():
            print(f"{name}, all of it: {pairs.in_words(values)} s")
        if "ours_over_torch" in result:
            print(f"ours_over_torch  {pairs.in_words(result['ours_over_torch'])}")
        return
    summary = {"benchmark": "evaluation"}
    if "ours_over_torch" in result:
        summary["ours_over_torch"] = result["ours_over_torch"]["median"]
    summary |= {
        "measured": result,
        "conditions": conditions,
        "machine": machine.describe(),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
