"""What exact noise costs: one draw beside one of float32 normals.

python -m experiments.benchmarks.noise_draw --json
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dpdm_jax.privacy import new_noise_key
from dpdm_jax.privacy.exact import discrete_gaussian
from experiments.benchmarks import machine, pairs

# Of the MNIST network's weights, and of a large network's.
_SIZES = (1_753_345, 80_000_000)
# Standard deviation in grid steps: noise multiplier 1.5, clip norm 1.
_STDDEV = 1.5 * 2.0**28


def float_normal(keys: jax.Array, size: int) -> jax.Array:
    """Float32 normals from 64 bits a number: quantiles of the keys' joined streams.

    Args:
        keys: typed PRNG keys [n].
        size: how many.
    """

    def bits_of(word: int) -> jax.Array:
        words = [
            jax.random.bits(jax.random.fold_in(key, word), (size,), jnp.uint32)
            for key in keys
        ]
        return functools.reduce(jnp.bitwise_xor, words)

    high, low = bits_of(0), bits_of(1)
    rest = (low.astype(jnp.float32) + 0.5) * 2.0**-32
    tail = ((high >> 1).astype(jnp.float32) + rest) * 2.0**-32
    magnitude = -jax.scipy.special.ndtri(tail)
    return jnp.where(high & 1, magnitude, -magnitude)


def sides(size: int) -> dict[str, Callable[[], jax.Array]]:
    """Returns the draws of so many numbers by name, to be timed."""
    keys = new_noise_key()
    exact = jax.jit(lambda keys: discrete_gaussian.draw(keys, size, _STDDEV))
    plain = jax.jit(lambda keys: float_normal(keys, size))
    return {"exact": lambda: exact(keys), "float": lambda: plain(keys)}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--sizes", type=int, nargs="+", default=_SIZES)
    parser.add_argument("--quick", action="store_true", help="few numbers, one pair")
    options = parser.parse_args(argv)
    if options.quick:
        options.sizes, options.pairs = (10_000, 20_000), 1
    before = machine.state()
    results = {}
    for size in options.sizes:
        seconds = pairs.interleaved(sides(size), options.pairs, steady=True)
        results[str(size)] = {
            "exact_over_float": pairs.ratio(seconds["exact"], seconds["float"]),
            "seconds": {name: pairs.spread(values) for name, values in seconds.items()},
        }
    if not options.json:
        for size, result in results.items():
            ratio = pairs.in_words(result["exact_over_float"])
            median = result["seconds"]["exact"]["median"]
            print(f"{size:>12} numbers: {median:.3f} s, exact / float {ratio}")
        return
    worst = max(r["exact_over_float"]["median"] for r in results.values())
    print(
        json.dumps(
            {
                "benchmark": "noise_draw",
                "exact_over_float": worst,
                "sizes": results,
                "pairs": options.pairs,
                "conditions": {"before": before, "after": machine.state()},
                "machine": machine.describe(),
            }
        )
    )


if __name__ == "__main__":
    main()
