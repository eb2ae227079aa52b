"""What privacy costs: clipped gradients against ordinary ones of the same loss.

python -m experiments.benchmarks.step_time --json
"""

import argparse
import json
import statistics

from dpdm_jax import command_line, xla_flags
from experiments.benchmarks import pairs

_SIZES = ((8, 8), (2, 32), (32, 1))


def measure(batch_size: int, multiplicity: int, num_pairs: int) -> dict:
    """Times the MNIST network's gradients, with K draws an example."""
    import jax
    import jax.numpy as jnp

    from dpdm_jax import privacy
    from dpdm_jax.model import build_model

    config = command_line.load_config("configs/mnist.py:eps=10")
    config.diffusion.noise_multiplicity = multiplicity
    model = build_model(config, (28, 28, 1), 10)
    loss = model.loss(config.diffusion)
    params = model.network.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (batch_size, 28, 28, 1), minval=-1)
    labels = jnp.arange(batch_size, dtype=jnp.int32) % 10
    keys = jax.random.split(jax.random.key(2), batch_size)

    def mean_loss(params, images, labels, keys):
        return jax.vmap(loss, (None, 0, 0, 0))(params, images, labels, keys).mean()

    ordinary = jax.jit(jax.grad(mean_loss))
    clipped = jax.jit(
        privacy.clipped_grad(
            loss, l2_clip_norm=1.0, batch_argnums=(1, 2), prng_argnum=3
        ).fun
    )
    arguments = (params, images, labels, keys)
    seconds = pairs.interleaved(
        {
            "private": lambda: clipped(*arguments),
            "nonprivate": lambda: ordinary(*arguments),
        },
        num_pairs,
    )
    return {
        "batch_size": batch_size,
        "noise_multiplicity": multiplicity,
        "private_over_nonprivate": pairs.ratio(
            seconds["private"], seconds["nonprivate"]
        ),
        "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "pairs": num_pairs,
    }


def main() -> None:
    """Prints a line for each size, and with --json one JSON line for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    xla_flags.configure()
    results = [measure(b, k, options.pairs) for b, k in _SIZES]
    if options.json:
        key = "private_over_nonprivate"
        summary = {
            f"B={r['batch_size']},K={r['noise_multiplicity']}": r for r in results
        }
        worst = max(r[key]["median"] for r in results)
        print(json.dumps({"benchmark": "step_time", key: worst, "sizes": summary}))
        return
    for r in results:
        q = r["private_over_nonprivate"]
        print(
            f"B={r['batch_size']} K={r['noise_multiplicity']}: private takes "
            f"{q['median']:.2f} ({q['min']:.2f} to {q['max']:.2f}) of non-private's "
            f"{r['seconds']['nonprivate']:.2f} s"
        )


if __name__ == "__main__":
    main()
