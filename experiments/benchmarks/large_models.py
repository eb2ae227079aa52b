"""What a micro-batch of the largest published networks costs, beside PyTorch.

python -m experiments.benchmarks.large_models --write

The 80-million-weight U-Net of ``configs/cifar10_finetune.py`` and the latent U-Net of
``configs/cifar10_ldm.py``. Prints a JSON line a network: seconds by the clock and of
all cores, and bytes, for each image and view. All sides compute gradients alone,
without noise and optimizer; each has a process of its own, and they take turns.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.benchmarks import machine, pairs, worker

RESULTS = pathlib.Path(__file__).parent / "results" / "large_models.jsonl"


class Case(NamedTuple):
    """A network's micro-batch.

    Attributes:
        kind: see ``large_sides.side``.
        size: likewise.
        views: noisy images of the micro-batch.
        sides: names, likewise.
    """

    kind: str
    size: dict[str, Any]
    views: int
    sides: tuple[str, ...]


def _pixels(network: str, views: int) -> Case:
    size = {
        "network": network,
        "dtype": "float32",
        "batch_size": 1,
        "noise_multiplicity": views,
        "views_at_once": views,
    }
    return Case("pixels", size, views, ("private", "ordinary", "torch_ordinary"))


def _latents(images: int, *, is_least: bool) -> Case:
    network = "cifar10_ldm"
    size = {"network": network, "batch_size": images, "is_least": is_least}
    sides = ("private", "private_part", "ordinary", "torch_ordinary")
    return Case("latents", size, images, sides)


# One image with as many views as are seen at once; as many latents.
CASES = {
    "adm_80m": _pixels("adm_80m", 8),
    "cifar10_ldm": _latents(8, is_least=False),
}
_QUICK = {
    "adm_80m": _pixels("least", 2)._replace(sides=("ordinary", "torch_ordinary")),
    "cifar10_ldm": _latents(2, is_least=True)._replace(
        sides=("private_part", "torch_ordinary")
    ),
}


def measure(case: Case, sides: Sequence[str], num_pairs: int) -> dict[str, Any]:
    """Measures the sides of a network.

    Args:
        case: the micro-batch.
        sides: of the case's.
        num_pairs: rounds.

    Returns:
        Seconds of a view and bytes, by side, those that a plan says of private ones,
        and ratios to PyTorch's.
    """
    spent: dict[str, list[float]] = {name: [] for name in sides}
    found: dict[str, dict[str, int]] = {}
    with contextlib.ExitStack() as resources:
        folder = pathlib.Path(resources.enter_context(tempfile.TemporaryDirectory()))
        runs = {}
        for name in sides:
            answer = folder / f"{name}.json"
            process = worker.Worker(
                f"{__package__}.large_sides:side",
                kind=case.kind,
                name=name,
                size=case.size,
                answer=str(answer),
            )
            step = resources.enter_context(process).sides["step"]
            runs[name] = lambda name=name, step=step: spent[name].append(step())
            found[name] = json.loads(answer.read_text())
        seconds = pairs.interleaved(runs, num_pairs)
    # Without the first, untimed call.
    spent = {name: values[1:] for name, values in spent.items()}
    result: dict[str, Any] = {
        key: {name: sizes[key] for name, sizes in found.items() if key in sizes}
        for key in ("bytes", "planned_bytes")
    }
    for key, values in (("seconds", seconds), ("processor_seconds", spent)):
        result[f"{key}_a_view"] = {
            name: pairs.spread([s / case.views for s in some])
            for name, some in values.items()
        }
        if "torch_ordinary" in values:
            result[f"{key}_over_torch"] = {
                name: pairs.ratio(values[name], values["torch_ordinary"])
                for name in sides
                if name != "torch_ordinary"
            }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--pairs", type=int, default=3, help="rounds")
    parser.add_argument("--write", action="store_true", help="keep the lines")
    parser.add_argument("--quick", action="store_true", help="tiny networks, one pair")
    options = parser.parse_args(argv)
    if options.quick:
        options.pairs = 1
    has_torch = importlib.util.find_spec("torch") is not None
    lines = []
    for network in options.networks:
        case = (_QUICK if options.quick else CASES)[network]
        recorder = machine.Recorder()
        sides = [name for name in case.sides if has_torch or "torch" not in name]
        found = measure(case, sides, options.pairs)
        line = {"network": network, "size": case.size, "views": case.views}
        lines.append(json.dumps(line | found | recorder.record()))
        print(lines[-1], flush=True)
        if options.write:
            RESULTS.write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
