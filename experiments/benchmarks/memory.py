"""Memory of the private step beside the ordinary one's.

python -m experiments.benchmarks.memory --json --network mnist

Two measures: what the compiler reserves for temporary values (nothing runs, so any
batch size will do), and how much the resident memory of a process grows when a step
runs in it (Linux only).
"""

import argparse
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from experiments.benchmarks import machine, problem, resident

_MEBI = 2**20
# A child prints its result behind this mark.
_MARK = "peak resident bytes: "


def temporary_bytes(
    network: str, side: str, batch_size: int, noise_multiplicity: int, **options: int
) -> int:
    """What the compiled gradient of a batch reserves beside arguments and result.

    Args:
        network: a name in ``problem.NETWORKS``.
        side: "private" or "nonprivate".
        batch_size: B.
        noise_multiplicity: K.
        **options: of ``privacy.clipped_grad``, for the private side.
    """
    compiled, _ = _compile(network, side, batch_size, noise_multiplicity, **options)
    return compiled.memory_analysis().temp_size_in_bytes


def resident_bytes(
    network: str, side: str, batch_size: int, noise_multiplicity: int
) -> int:
    """How far a new process's resident memory rises while it takes one step."""
    size = [network, side, str(batch_size), str(noise_multiplicity)]
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--child", *size],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).resolve().parents[2],
    )
    return int(done.stdout.rpartition(_MARK)[2])


def _compile(network, side, batch_size, noise_multiplicity, **options):
    import jax

    from dpdm_jax import xla_flags
    from experiments.benchmarks import jax_steps

    xla_flags.configure()
    model, loss = jax_steps.build(network, noise_multiplicity)
    if side == "private":
        gradient = jax_steps.private(loss, **options)
    else:
        gradient = jax_steps.nonprivate(model)
    shapes = jax.eval_shape(
        lambda: (model.init(jax.random.key(0)), *jax_steps.batch(batch_size))
    )
    return jax.jit(gradient).lower(*shapes).compile(), model


def _child(network: str, side: str, batch_size: str, noise_multiplicity: str) -> None:
    """Takes one step and prints by how much it raised the resident memory."""
    import jax

    from experiments.benchmarks import jax_steps

    compiled, model = _compile(network, side, int(batch_size), int(noise_multiplicity))
    arguments = jax.block_until_ready(
        (model.init(jax.random.key(0)), *jax_steps.batch(int(batch_size)))
    )
    raised = resident.rise(lambda: jax.block_until_ready(compiled(*arguments)))
    print(f"{_MARK}{raised}")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    options = _parse(argv)
    if options.child:
        _child(*options.child)
        return

    compiled = []
    for k in options.multiplicities:
        for b in options.batch_sizes:
            size = {"batch_size": b, "noise_multiplicity": k}
            temporary = {
                side: temporary_bytes(options.network, side, **size)
                for side in ("private", "nonprivate")
            }
            compiled.append(_compared(size, temporary))
    flat = {
        f"K={k}": _flatness(options.network, options.batch_sizes, k, options.microbatch)
        for k in options.multiplicities
    }
    resident = []
    for b, k in options.resident_sizes:
        size = {"batch_size": b, "noise_multiplicity": k}
        peaks = {
            side: resident_bytes(options.network, side, **size)
            for side in ("private", "nonprivate")
        }
        resident.append(_compared(size, peaks))

    if not options.json:
        for title, results in (("compiled", compiled), ("resident", resident)):
            for r in results:
                print(
                    f"{title} B={r['batch_size']} K={r['noise_multiplicity']}: private "
                    f"{r['bytes']['private'] / _MEBI:.0f} MiB, "
                    f"{r['private_over_nonprivate']:.2f} of non-private"
                )
        for k, result in flat.items():
            print(
                f"{k}, {options.microbatch} examples at once: memory at the largest "
                f"batch {result['largest_over_smallest']:.2f} of that at the smallest"
            )
        return
    key = "private_over_nonprivate"
    summary = {
        "benchmark": "memory",
        f"{key}_memory": max(r[key] for r in compiled),
        "network": options.network,
        "compiled": compiled,
        "resident": resident,
        "fixed_microbatch": {"microbatch_size": options.microbatch, **flat},
        "machine": machine.describe(),
    }
    if resident:
        summary[f"{key}_resident"] = max(r[key] for r in resident)
    print(json.dumps(summary))


def _compared(size: dict, num_bytes: dict[str, int]) -> dict:
    ratio = num_bytes["private"] / num_bytes["nonprivate"]
    return size | {"bytes": num_bytes, "private_over_nonprivate": ratio}


def _flatness(
    network: str, batch_sizes: Sequence[int], noise_multiplicity: int, microbatch: int
) -> dict:
    """The private step's temporary bytes by batch size, micro-batches being fixed."""
    by_size = {
        b: temporary_bytes(
            network, "private", b, noise_multiplicity, microbatch_size=microbatch
        )
        for b in batch_sizes
        if b >= microbatch
    }
    values = list(by_size.values())
    return {"bytes": by_size, "largest_over_smallest": values[-1] / values[0]}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--network", choices=problem.NETWORKS, default="small")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 32, 128, 256], metavar="B"
    )
    parser.add_argument(
        "--multiplicities", type=int, nargs="+", default=[1, 32], metavar="K"
    )
    parser.add_argument(
        "--microbatch", type=int, default=8, help="examples at once, for flatness in B"
    )
    parser.add_argument(
        "--resident-sizes",
        type=problem.size,
        nargs="*",
        default=[(32, 1), (8, 8)],
        metavar="B,K",
        help="steps that run, in processes of their own",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.network, options.multiplicities = "mlp", [1]
        options.batch_sizes, options.microbatch = [256, 512], 128
        options.resident_sizes = [(512, 1)]
    return options


if __name__ == "__main__":
    main()
