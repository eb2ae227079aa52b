"""What privacy costs: clipped gradients beside ordinary ones and other libraries'.

python -m experiments.benchmarks.step_time --json
"""

import argparse
import contextlib
import importlib.util
import json
from collections.abc import Sequence

from experiments.benchmarks import machine, pairs, problem, worker

# The packages that a side needs.
_SIDES = {
    "private": (),
    "nonprivate": (),
    "jax_privacy": ("jax_privacy",),
    "jax_privacy_plain": ("jax_privacy",),
    "torch_nonprivate": ("torch",),
    "opacus": ("torch", "opacus"),
    "opacus_ghost": ("torch", "opacus"),
}
# Key -> the two sides and which of the sizes' medians is the worst one.
_RATIOS = {
    "private_over_nonprivate": ("private", "nonprivate", max),
    "jax_privacy_over_ours": ("jax_privacy", "private", min),
    "jax_privacy_plain_over_ours": ("jax_privacy_plain", "private", min),
    "opacus_over_ours": ("opacus", "private", min),
    "opacus_ghost_over_ours": ("opacus_ghost", "private", min),
    "ours_private_over_torch_nonprivate": ("private", "torch_nonprivate", max),
}
_SIZES = ((8, 8), (2, 32), (32, 1))


def measure(
    sides: Sequence[str],
    network: str,
    batch_size: int,
    noise_multiplicity: int,
    num_pairs: int,
    layout: str,
) -> dict:
    """Times the sides at one size.

    Args:
        sides: names in ``_SIDES``; Opacus's ghost clipping takes part at K = 1 only.
        network: a name in ``problem.NETWORKS``.
        batch_size: B.
        noise_multiplicity: K.
        num_pairs: rounds.
        layout: PyTorch's, "nchw" or "nhwc".

    Returns:
        Ratios and seconds.
    """
    if noise_multiplicity > 1:
        sides = [name for name in sides if name != "opacus_ghost"]
    torch_sides = [name for name in sides if "torch" in _SIDES[name]]
    plain_sides = [name for name in sides if name == "jax_privacy_plain"]
    jax_sides = [name for name in sides if name not in torch_sides + plain_sides]
    size = {
        "network": network,
        "batch_size": batch_size,
        "noise_multiplicity": noise_multiplicity,
    }
    builders = []
    if jax_sides:
        builders.append(("jax_steps:step_sides", {"sides": jax_sides}))
    if plain_sides:
        builders.append(("jax_steps:plain_step_sides", {}))
    if torch_sides:
        extra = {"sides": torch_sides, "layout": layout}
        builders.append(("torch_steps:step_sides", extra))
    with contextlib.ExitStack() as processes:
        functions = {}
        for builder, extra in builders:
            process = worker.Worker(f"{__package__}.{builder}", **size, **extra)
            functions |= processes.enter_context(process).sides
        seconds = pairs.interleaved(functions, num_pairs, steady=True)
    ratios = {
        key: pairs.ratio(seconds[a], seconds[b])
        for key, (a, b, _) in _RATIOS.items()
        if a in seconds and b in seconds
    }
    return (
        size
        | ratios
        | {
            "seconds": {name: pairs.spread(values) for name, values in seconds.items()},
            "pairs": num_pairs,
        }
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    options = _parse(argv)
    before = machine.state()
    results = [
        measure(options.sides, options.network, b, k, options.pairs, options.layout)
        for b, k in options.sizes
    ]
    conditions = {"before": before, "after": machine.state()}
    if not options.json:
        for result in results:
            _print(result)
        return
    worst = {
        key: choose(r[key]["median"] for r in results if key in r)
        for key, (_, _, choose) in _RATIOS.items()
        if any(key in r for r in results)
    }
    sizes = {f"B={r['batch_size']},K={r['noise_multiplicity']}": r for r in results}
    print(
        json.dumps(
            {"benchmark": "step_time"}
            | worst
            | {
                "sizes": sizes,
                "torch_layout": options.layout,
                "conditions": conditions,
                "machine": machine.describe(),
            }
        )
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=9, help="rounds")
    parser.add_argument(
        "--sizes",
        type=problem.size,
        nargs="+",
        default=_SIZES,
        metavar="B,K",
        help="examples and noise draws an example",
    )
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=_SIDES,
        default=[
            name
            for name, packages in _SIDES.items()
            if all(map(importlib.util.find_spec, packages))
        ],
        help="default: all whose packages are installed",
    )
    parser.add_argument("--network", choices=problem.CONVOLUTIONAL, default="mnist")
    parser.add_argument(
        "--layout", choices=("nchw", "nhwc"), default="nhwc", help="PyTorch's"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network, one pair")
    options = parser.parse_args(argv)
    if options.quick:
        # One draw: Opacus knows no ghost clipping of several.
        options.network, options.pairs, options.sizes = "least", 1, ((2, 1),)
    return options


def _print(result: dict) -> None:
    print(f"B={result['batch_size']} K={result['noise_multiplicity']}")
    for name, seconds in result["seconds"].items():
        print(f"  {name:<36} {seconds['median']:.3f} s")
    for key in _RATIOS:
        if key in result:
            print(f"  {key:<36} {pairs.in_words(result[key])}")


if __name__ == "__main__":
    main()
