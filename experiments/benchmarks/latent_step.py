"""What privacy costs in latent diffusion, and what training a part of a network saves.

python -m experiments.benchmarks.latent_step --json

A step is the sum of the gradients of a batch, one image and one draw at a time: of
clipped ones, as private training takes it, or of ordinary ones, as public training
does. Both see latents that were made before. Noise and optimizer, once a logical step,
are left out.
"""

import argparse
import json
from collections.abc import Sequence

from dpdm_jax import xla_flags
from experiments.benchmarks import machine, pairs

# Flags must be set before JAX looks for them.
xla_flags.configure()

from experiments.benchmarks import latent_sides  # noqa: E402

SELECTORS = ("all", "attention,condition", "lora:4")


def measure(
    network: str, selectors: Sequence[str], batch_size: int, num_pairs: int, least: bool
) -> dict:
    """Times the steps of one network, which take turns.

    Args:
        network: see ``latent_sides.build``.
        selectors: what is trained; the first is what the others are compared with.
        batch_size: images.
        num_pairs: rounds.
        least: whether all is tiny.

    Returns:
        By selector: trained weights, bytes and seconds of both steps, their ratio, and
        the private step's time and memory over those of the first selector.
    """
    built = {
        (kind, selector): latent_sides.build(
            network, selector, batch_size, is_private=kind == "private", is_least=least
        )
        for selector in selectors
        for kind in ("private", "ordinary")
    }
    runs = {f"{kind} {name}": run for (kind, name), (run, _) in built.items()}
    seconds = pairs.interleaved(runs, num_pairs)
    first, found = f"private {selectors[0]}", {}
    bytes_of_first = None
    for selector in selectors:
        private, ordinary = f"private {selector}", f"ordinary {selector}"
        sizes = [built[kind, selector][1] for kind in ("private", "ordinary")]
        bytes_of_first = bytes_of_first or sizes[0]["bytes"]
        found[selector] = {
            "trained": sizes[0]["trained"],
            "private_bytes": sizes[0]["bytes"],
            "ordinary_bytes": sizes[1]["bytes"],
            "private_seconds": pairs.spread(seconds[private]),
            "ordinary_seconds": pairs.spread(seconds[ordinary]),
            "private_over_ordinary": pairs.ratio(seconds[private], seconds[ordinary]),
            "time_over_first": pairs.ratio(seconds[private], seconds[first]),
            "memory_over_first": sizes[0]["bytes"] / bytes_of_first,
        }
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=("mnist_ldm", "cifar10_ldm"),
        default=["mnist_ldm", "cifar10_ldm"],
    )
    parser.add_argument("--selectors", nargs="+", default=SELECTORS)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a tiny network, one pair")
    options = parser.parse_args(argv)
    if options.quick:
        options.networks, options.pairs, options.batch_size = ["mnist_ldm"], 1, 1
        options.selectors = ["lora:2"]
    before = machine.state()
    results = {
        network: measure(
            network,
            options.selectors,
            options.batch_size,
            options.pairs,
            options.quick,
        )
        for network in options.networks
    }
    if not options.json:
        for network, found in results.items():
            for selector, values in found.items():
                print(f"{network} {selector}: {values['trained']} weights")
                for key in ("private_over_ordinary", "time_over_first"):
                    print(f"  {key:<24} {pairs.in_words(values[key])}")
                print(f"  memory_over_first        {values['memory_over_first']:.2f}")
        return
    worst = max(
        values["private_over_ordinary"]["median"]
        for found in results.values()
        for values in found.values()
    )
    print(
        json.dumps(
            {
                "benchmark": "latent_step",
                "private_over_ordinary": worst,
                "networks": results,
                "pairs": options.pairs,
                "batch_size": options.batch_size,
                "conditions": {"before": before, "after": machine.state()},
                "commit": machine.commit(),
                "machine": machine.describe(),
            }
        )
    )


if __name__ == "__main__":
    main()
