"""Layers of large networks on few rows or pixels: ours beside what XLA makes of them.

python -m experiments.benchmarks.few_rows --json

A dense layer on a few rows, and a 3x3 convolution of an image of a few pixels: forward,
and the gradient by what comes in.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

from dpdm_jax.networks import convolution, product  # noqa: E402
from experiments.benchmarks import machine, pairs  # noqa: E402

# Rows, and widths, of the latent U-Net of configs/cifar10_ldm.py and of a larger one.
_DENSE = (
    (1, 512, 512),
    (4, 512, 512),
    (4, 2048, 512),
    (64, 512, 512),
    (1024, 512, 512),
)
# Side of a square image, and channels.
_CONVOLUTIONS = ((2, 512, 512), (4, 256, 256), (8, 256, 256), (16, 128, 128))

_Layer = Callable[[jax.Array, jax.Array], jax.Array]


def _plain_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    form = ("NHWC", "HWIO", "NHWC")
    ones = ((1, 1), (1, 1))
    return lax.conv_general_dilated(x, kernel, (1, 1), ones, dimension_numbers=form)


def sides(
    shape: tuple[int, ...], kernel_shape: tuple[int, ...], layers: dict[str, _Layer]
) -> dict[str, dict[str, Callable[[], jax.Array]]]:
    """Returns what is timed.

    Args:
        shape: of what comes in.
        kernel_shape: of the weights.
        layers: by the name of a side.

    Returns:
        "forward" and "gradient" -> name -> function.
    """
    x, kernel = jnp.ones(shape), jnp.ones(kernel_shape)
    dy = jnp.ones((*shape[:-1], kernel_shape[-1]))

    def gradient(layer: _Layer, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: layer(x, kernel), x)[1](dy)[0]

    found: dict[str, dict[str, Callable[[], jax.Array]]] = {
        "forward": {},
        "gradient": {},
    }
    for name, layer in layers.items():
        forward = jax.jit(layer)
        back = jax.jit(functools.partial(gradient, layer))
        found["forward"][name] = functools.partial(forward, x, kernel)
        found["gradient"][name] = functools.partial(back, x, kernel)
    return found


def measure(num_pairs: int, *, is_quick: bool) -> dict[str, dict[str, dict]]:
    """Measures all layers.

    Args:
        num_pairs: rounds.
        is_quick: whether one layer of each kind is enough.

    Returns:
        Layer -> "forward" and "gradient" -> seconds of both sides, and the plain one's
        over ours.
    """
    cases = {
        f"dense, {n} rows, {i} to {o}": sides(
            (n, i), (i, o), {"ours": product.matmul, "plain": jnp.matmul}
        )
        for n, i, o in (_DENSE[1:2] if is_quick else _DENSE)
    } | {
        f"conv3x3, {side} x {side}, {i} to {o}": sides(
            (1, side, side, i),
            (3, 3, i, o),
            {"ours": convolution.conv3x3, "plain": _plain_convolution},
        )
        for side, i, o in (_CONVOLUTIONS[1:2] if is_quick else _CONVOLUTIONS)
    }
    results: dict[str, dict[str, dict]] = {}
    for name, passes in cases.items():
        results[name] = {}
        for one, functions in passes.items():
            seconds = pairs.repeated(functions, num_pairs, round_seconds=0.05)
            results[name][one] = {
                "plain_over_ours": pairs.ratio(seconds["plain"], seconds["ours"]),
                "seconds": {side: pairs.spread(s) for side, s in seconds.items()},
            }
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--quick", action="store_true", help="two layers, one pair")
    options = parser.parse_args(argv)
    recorder = machine.Recorder()
    num_pairs = 1 if options.quick else options.pairs
    layers = measure(num_pairs, is_quick=options.quick)
    ratios = [
        one["plain_over_ours"] for both in layers.values() for one in both.values()
    ]
    worst = min(ratio["median"] for ratio in ratios)
    if not options.json:
        for name, both in layers.items():
            for one, result in both.items():
                ours = result["seconds"]["ours"]["median"]
                words = pairs.in_words(result["plain_over_ours"])
                print(f"{name}, {one}: {ours * 1e3:.2f} ms, plain / ours {words}")
        return
    line = {"benchmark": "few_rows", "plain_over_ours": worst, "layers": layers}
    print(json.dumps(line | {"pairs": num_pairs} | recorder.record()))


if __name__ == "__main__":
    main()
