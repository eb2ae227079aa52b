"""What privacy costs in DP fine-tuning: a step of the ADM U-Nets beside ordinary ones.

python -m experiments.benchmarks.finetune_step --json

A step is the sum of the gradients of B images with K views each: of clipped ones as the
library's training takes it, or of ordinary ones. Noise and optimizer, once a logical
step, are left out.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

from experiments.benchmarks import finetune_problem as problem
from experiments.benchmarks import machine, pairs, worker

# A child prints its result behind this mark.
_MARK = "bytes at once: "
# What keys of ratios of processor seconds end with.
_SPENT = "_processor"
# Key -> the two sides.
_RATIOS = {
    "private_over_ordinary": ("private", "ordinary"),
    "private_over_ordinary_at_once": ("private", "ordinary_at_once"),
    "private_over_torch": ("private", "torch_ordinary"),
    "ordinary_over_torch": ("ordinary", "torch_ordinary"),
}


def measure_time(size: dict, sides: Sequence[str], num_pairs: int) -> dict:
    """Seconds of the sides, which take turns, and their ratios.

    Beside the seconds by the clock are those that all cores spent, which others on the
    machine change less.

    Args:
        size: see ``finetune_sides.private``.
        sides: "private", "ordinary", "ordinary_at_once", "torch_ordinary".
        num_pairs: rounds.
    """
    ours = [name for name in sides if name != "torch_ordinary"]
    with contextlib.ExitStack() as processes:
        functions = {}
        for builder, wanted in (
            ("finetune_sides:sides", {"names": ours}),
            ("torch_finetune:sides", {}),
        ):
            if wanted or len(ours) < len(sides):
                process = worker.Worker(f"{__package__}.{builder}", **size, **wanted)
                functions |= processes.enter_context(process).sides
        spent: dict[str, list[float]] = {name: [] for name in functions}
        timed = {
            name: functools.partial(_noting, spent[name], run)
            for name, run in functions.items()
        }
        seconds = pairs.interleaved(timed, num_pairs)
    # Without the first, untimed call.
    spent = {name: values[1:] for name, values in spent.items()}
    result = {
        f"{key}{ending}": pairs.ratio(values[a], values[b])
        for ending, values in (("", seconds), (_SPENT, spent))
        for key, (a, b) in _RATIOS.items()
        if a in values and b in values
    }
    return result | {
        "seconds": {name: pairs.spread(values) for name, values in seconds.items()},
        "processor_seconds": {n: pairs.spread(values) for n, values in spent.items()},
        "pairs": num_pairs,
    }


def _noting(spent: list[float], run: Callable[[], float]) -> None:
    spent.append(run())


def measure_memory(size: dict, *, is_run: bool) -> dict:
    """Bytes of a private and of an ordinary step, each in a process of its own.

    Args:
        size: see ``finetune_sides.private``.
        is_run: whether a step is taken, too: its resident memory (Linux).

    Returns:
        Of each side, what the compiler says ("compiled"), and what arguments and the
        rise of the resident memory are together ("resident"); of both, the private
        one's bytes over the ordinary one's plus one gradient.
    """
    found = {name: _in_child(name, size, is_run) for name in ("private", "ordinary")}
    gradient = found["ordinary"].pop("gradient")
    found["private"].pop("gradient")
    result = {"bytes": found, "gradient_bytes": gradient}
    for kind in found["private"]:
        allowed = found["ordinary"][kind] + gradient
        result[f"{kind}_over_ordinary"] = found["private"][kind] / allowed
    return result


def _in_child(name: str, size: dict, is_run: bool) -> dict:
    task = json.dumps({"name": name, "size": size, "is_run": is_run})
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--child", task],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).resolve().parents[2],
    )
    return json.loads(done.stdout.rpartition(_MARK)[2])


def _child(name: str, size: dict, is_run: bool) -> None:
    import jax

    from dpdm_jax import xla_flags
    from dpdm_jax.compilation.memory import program_memory
    from experiments.benchmarks import finetune_sides, resident

    xla_flags.configure()
    side = finetune_sides.build(name, size)
    memory = program_memory(side.compiled)
    params = jax.tree.leaves(side.arguments[0][0])
    found = {
        "compiled": memory["peak"] - memory["code"],
        "gradient": sum(leaf.nbytes for leaf in params),
    }
    if is_run:
        jax.block_until_ready((side.total, side.arguments))
        raised = resident.rise(finetune_sides.runner(side))
        found["resident"] = memory["arguments"] + raised
    print(f"{_MARK}{json.dumps(found)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line."""
    options = _parse(argv)
    if options.child:
        _child(**json.loads(options.child))
        return
    before = machine.state()
    results = []
    for network in options.networks:
        for dtype in options.dtypes:
            for b, k, m in options.sizes:
                size = {
                    "network": network,
                    "dtype": dtype,
                    "batch_size": b,
                    "noise_multiplicity": k,
                    "views_at_once": m,
                }
                result = {"size": size}
                if "time" in options.parts:
                    sides = [name for name in options.sides if _is_asked(name, b, k, m)]
                    result |= measure_time(size, sides, options.pairs)
                if "memory" in options.parts:
                    # One image: more of them change nothing.
                    one = size | {"batch_size": 1}
                    is_run = sys.platform == "linux"
                    result["memory"] = measure_memory(one, is_run=is_run)
                results.append(result)
                if not options.json:
                    _print(result)
    if not options.json:
        return
    worst = {
        key: max(r[key]["median"] for r in results if key in r)
        for key in (*_RATIOS, *(key + _SPENT for key in _RATIOS))
        if any(key in r for r in results)
    }
    for kind in ("compiled", "resident"):
        key = f"{kind}_over_ordinary"
        found = [r["memory"][key] for r in results if key in r.get("memory", {})]
        if found:
            worst[f"{kind}_memory_over_ordinary"] = max(found)
    print(
        json.dumps(
            {"benchmark": "finetune_step"}
            | worst
            | {
                "sizes": results,
                "conditions": {"before": before, "after": machine.state()},
                "commit": machine.commit(),
                "machine": machine.describe(),
            }
        )
    )


def _is_asked(name: str, batch_size: int, multiplicity: int, views: int) -> bool:
    """Whether a side is another one than "ordinary"."""
    return name != "ordinary_at_once" or batch_size * multiplicity != views


def _size(text: str) -> tuple[int, ...]:
    b, k, m = map(int, text.split(","))
    return b, k, m


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pairs", type=int, default=3, help="rounds")
    parser.add_argument(
        "--networks", nargs="+", choices=problem.NETWORKS, default=["adm_4m"]
    )
    parser.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"]
    )
    parser.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        default=[(4, 1, 1), (2, 32, 8)],
        metavar="B,K,M",
        help="images, views of each, views in a micro-batch",
    )
    parser.add_argument(
        "--parts", nargs="+", choices=("time", "memory"), default=["time", "memory"]
    )
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=("private", "ordinary", "ordinary_at_once", "torch_ordinary"),
        default=["private", "ordinary", "ordinary_at_once"]
        + ["torch_ordinary"] * bool(importlib.util.find_spec("torch")),
        help="that are timed",
    )
    parser.add_argument("--quick", action="store_true", help="a tiny network, one pair")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.quick:
        options.networks, options.pairs, options.sizes = ["least"], 1, [(1, 2, 1)]
        options.sides = [name for name in options.sides if name != "ordinary_at_once"]
    return options


def _print(result: dict) -> None:
    print(*result["size"].values())
    for name, seconds in result.get("seconds", {}).items():
        spent = result["processor_seconds"][name]["median"]
        print(f"  {name:<32} {seconds['median']:.3f} s, of all cores {spent:.3f} s")
    for key in _RATIOS:
        if key in result:
            of_cores = pairs.in_words(result[key + _SPENT])
            print(f"  {key:<32} {pairs.in_words(result[key])}, of cores {of_cores}")
    for key, value in result.get("memory", {}).items():
        if key.endswith("_over_ordinary"):
            print(f"  memory, {key:<24} {value:.2f}")


if __name__ == "__main__":
    main()
