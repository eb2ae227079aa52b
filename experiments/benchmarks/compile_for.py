"""What every published config needs on a TPU slice, by libtpu's compiler.

python -m experiments.benchmarks.compile_for --topology=v5e:2x4 --json

Compiling takes minutes a config. Each finished one is written to --out at once, and
what is in there is not compiled again.
"""

import argparse
import json
import logging
import pathlib
import subprocess
import sys
import tempfile

import ml_collections

from dpdm_jax import command_line, compilation
from dpdm_jax.compilation.targets import CHIPS
from experiments.benchmarks import bert_words

_CONFIGS = (
    "mnist",
    "celeba_32",
    "cifar10",
    "imagenet_32",
    "celeba_64",
    "cifar10_finetune",
    "mnist_adm",
    "mnist_ldm",
    "cifar10_ldm",
    "celeba_32_ldm",
    "celeba_64_ldm",
    "celeba_hq_ldm",
    "celeba_hq_text_ldm",
)
_DTYPES = ("float32", "bfloat16")
_RESULTS = pathlib.Path(__file__).parent / "results" / "compile_for.json"


def compile_config(
    config: str, dtype: str, topology: str, minutes: float, *, sampler: bool
) -> dict:
    """Compiles one config in a process of its own.

    Args:
        config: name of a file in configs/.
        dtype: of the network.
        topology: of the TPU slice.
        minutes: after which it is given up.
        sampler: whether to compile the sampler, too.

    Returns:
        What --mode=plan --compile-for says under "compiled", or an "error".
    """
    command = [sys.executable, "-m", __spec__.name, "--topology", topology]
    command += ["--configs", config, "--dtypes", dtype, "--here"]
    try:
        done = subprocess.run(
            command if sampler else [*command, "--training-only"],
            stdout=subprocess.PIPE,
            text=True,
            timeout=60 * minutes,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not compiled within {minutes:g} minutes"}
    except subprocess.CalledProcessError as e:
        return {"error": f"the compiler ended with exit status {e.returncode}"}
    return json.loads(done.stdout)


def _compile_here(
    config_name: str, dtype: str, topology: str, *, sampler: bool
) -> dict:
    config = command_line.load_config(f"configs/{config_name}.py")
    config.network.dtype = dtype
    with tempfile.TemporaryDirectory() as folder:
        if config.data.captions.vocabulary:
            # As many words as BERT's, which the released text encoder reads.
            config.data.captions.vocabulary = bert_words.write(pathlib.Path(folder))
        return _compiled(config, topology, sampler=sampler)


def _compiled(
    config: ml_collections.ConfigDict, topology: str, *, sampler: bool
) -> dict:
    target = compilation.find_target(topology)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return compilation.compile_report(config, target, sampler=sampler)


def table(results: dict[str, dict]) -> str:
    """The rows of a Markdown table."""
    lines = []
    for key, r in results.items():
        config, _, dtype = key.partition(",")
        if "error" in r or "lower_bound_hours" not in r:
            problem = r.get("error") or r["programs"]["accumulate"]["error"]
            lines.append(f"| {config} | {dtype} | {problem} |" + " |" * 7)
            continue
        accumulate, finish = r["programs"]["accumulate"], r["programs"]["finish"]
        exchanged = sum(c["bytes"] for c in finish.get("collectives", {}).values())
        traffic = r["memory_seconds_per_step"]
        lines.append(
            f"| {config} | {dtype} "
            f"| {r['microbatches_per_step']} x {r['microbatch_size']} "
            f"| {accumulate['compile_cpu_seconds']:.0f} "
            f"| {r['training_bytes'] / 1e9:.2f} "
            f"| {r['largest_microbatch_estimate']} "
            f"| {r['flops_per_step'] / 1e15:.2f} "
            f"| {r['compiled_over_expected_flops']:.2f} "
            f"| {'-' if 'unread' in finish else f'{exchanged / 1e6:.2f}'} "
            f"| {r['compute_seconds_per_step']:.2f} / "
            f"{'-' if traffic is None else f'{traffic:.2f}'} |"
        )
    return "\n".join(lines)


def other_chips(results: dict[str, dict]) -> str:
    """The rows of a second table: the same programs on as many chips of each kind.

    A chip's memory, computing and traffic are those that the compiler found for the
    slice it compiled for; only the chip's own limits change. Another kind's compiler
    may lay arrays out in other ways.
    """
    lines = []
    for key, r in results.items():
        if r.get("memory_seconds_per_step") is None:
            continue  # not compiled, or its traffic is not known
        cells = []
        for chip in CHIPS.values():
            compute, traffic = compilation.step_seconds(r, chip)
            seconds = max(compute, traffic or 0.0)
            hours = seconds * r["num_steps"] / 3600
            fits = r["training_bytes"] <= chip.hbm_bytes
            cells.append(f"{hours:.2g}" if fits else "does not fit")
        name = key.replace(",", ", ")
        lines.append(
            f"| {name} | {r['devices']} | {r['training_bytes'] / 1e9:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compiles what is missing and prints a table, or one JSON line with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:2x4")
    parser.add_argument("--configs", nargs="+", default=_CONFIGS, choices=_CONFIGS)
    parser.add_argument("--dtypes", nargs="+", default=_DTYPES, choices=_DTYPES)
    parser.add_argument("--minutes", type=float, default=60, help="limit for a config")
    parser.add_argument("--out", type=pathlib.Path, default=_RESULTS)
    parser.add_argument(
        "--training-only", action="store_true", help="without the sampler"
    )
    # Used by this program itself: one config in this process, and its report alone.
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sampler = not options.training_only
    if options.here:
        (config,), (dtype,) = options.configs, options.dtypes
        report = _compile_here(config, dtype, options.topology, sampler=sampler)
        print(json.dumps(report))
        return
    stored = json.loads(options.out.read_text()) if options.out.exists() else {}
    results = stored.setdefault(options.topology, {})
    for dtype in options.dtypes:
        for config in options.configs:
            key = f"{config},{dtype}"
            if key in results and "error" not in results[key]:
                continue
            print(f"{key}:", file=sys.stderr, flush=True)
            results[key] = compile_config(
                config, dtype, options.topology, options.minutes, sampler=sampler
            )
            options.out.write_text(json.dumps(stored, indent=1) + "\n")
    if options.json:
        summary = {
            key: {n: v for n, v in result.items() if n != "programs"}
            for key, result in results.items()
        }
        print(
            json.dumps(
                {
                    "benchmark": "compile_for",
                    "topology": options.topology,
                    "configs": summary,
                }
            )
        )
    else:
        print(table(results))
        print()
        print(other_chips(results))


if __name__ == "__main__":
    main()
