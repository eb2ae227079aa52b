"""Images a second of deterministic DDIM: ours beside PyTorch.

python -m experiments.benchmarks.sampling --json
"""

import argparse
import contextlib
import importlib.util
import json
from collections.abc import Sequence

from experiments.benchmarks import machine, pairs, problem, worker


def measure(
    network: str, batch_size: int, num_steps: int, num_pairs: int, layout: str
) -> dict:
    """Times both sides; without PyTorch only ours.

    Args:
        network: a name in ``problem.NETWORKS``.
        batch_size: images of one call.
        num_steps: network calls an image.
        num_pairs: rounds.
        layout: PyTorch's, "nchw" or "nhwc".

    Returns:
        Images a second of each side and, if there are both, the ratio.
    """
    work = {"network": network, "batch_size": batch_size, "num_steps": num_steps}
    with contextlib.ExitStack() as processes:
        builders = [(f"{__package__}.jax_steps:sampling_sides", {})]
        if importlib.util.find_spec("torch"):
            builder = f"{__package__}.torch_steps:sampling_sides"
            builders.append((builder, {"layout": layout}))
        sides = {}
        for builder, extra in builders:
            process = worker.Worker(builder, **work, **extra)
            sides |= processes.enter_context(process).sides
        seconds = pairs.interleaved(sides, num_pairs)
    result = work | {
        "seconds": {name: pairs.spread(values) for name, values in seconds.items()},
        "images_per_second": {
            name: pairs.spread([batch_size / s for s in values])
            for name, values in seconds.items()
        },
        "pairs": num_pairs,
    }
    if "torch" in seconds:
        result["ours_over_torch"] = pairs.ratio(seconds["torch"], seconds["ours"])
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=3, help="rounds")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--num-steps", type=int, default=50)
    parser.add_argument("--network", choices=problem.CONVOLUTIONAL, default="mnist")
    parser.add_argument(
        "--layout", choices=("nchw", "nhwc"), default="nhwc", help="PyTorch's"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network, one pair")
    options = parser.parse_args(argv)
    if options.quick:
        options.network, options.pairs = "least", 1
        options.batch_size, options.num_steps = 2, 3

    before = machine.state()
    result = measure(
        options.network,
        options.batch_size,
        options.num_steps,
        options.pairs,
        options.layout,
    )
    conditions = {"before": before, "after": machine.state()}
    if not options.json:
        for name, rate in result["images_per_second"].items():
            print(f"{name:<16} {pairs.in_words(rate)} images/s")
        if "ours_over_torch" in result:
            print(f"ours_over_torch  {pairs.in_words(result['ours_over_torch'])}")
        return
    summary = {"benchmark": "sampling"}
    if "ours_over_torch" in result:
        summary["ours_over_torch"] = result["ours_over_torch"]["median"]
    summary |= {
        "measured": result,
        "torch_layout": options.layout,
        "conditions": conditions,
        "machine": machine.describe(),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
