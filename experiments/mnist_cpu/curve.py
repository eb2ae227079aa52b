"""Checks every checkpoint of a run: accuracy against compute.

python -m experiments.mnist_cpu.curve mnist_eps10 --data=FOLDER --workdir=DIR

DIR is the --workdir of ``experiments.mnist_cpu.train``, run with
``--config.checkpoint.keep=20`` beside its other flags. Prints one JSON object.
"""

import argparse
import contextlib
import json
import pathlib
import tempfile
from collections.abc import Sequence

from dpdm_jax import xla_flags

# Flags must be set before JAX looks for them.
xla_flags.configure()

from dpdm_jax import command_line, load_release  # noqa: E402
from dpdm_jax.errors import InputError  # noqa: E402
from dpdm_jax.evaluation import image_sets  # noqa: E402
from dpdm_jax.release.build import release  # noqa: E402
from dpdm_jax.training.checkpoints import Checkpoints  # noqa: E402
from experiments.benchmarks import machine  # noqa: E402
from experiments.mnist_cpu.check import check  # noqa: E402
from experiments.mnist_cpu.runs import RUNS  # noqa: E402


def main(argv: Sequence[str] | None = None) -> None:
    """Releases each checkpoint, the newest last, and checks it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mnist_cpu.curve")
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--data", required=True)
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifier", default="cnn")
    arguments = parser.parse_args(argv)
    config = command_line.load_config(RUNS[arguments.run])
    recorder = machine.Recorder()
    rows = []
    try:
        real, test = (image_sets.load(f"{arguments.data}{s}") for s in ("", ":test"))
        with contextlib.closing(Checkpoints(arguments.workdir)) as checkpoints:
            steps = [step for step in checkpoints.steps() if step > 0]
        with tempfile.TemporaryDirectory() as cache_folder:
            for step in steps:
                config.release.step = step
                checked = check(
                    load_release(release(config, arguments.workdir)),
                    real,
                    test,
                    images=arguments.images,
                    seed=arguments.seed,
                    classifier=arguments.classifier,
                    cache_folder=pathlib.Path(cache_folder),
                )
                measured = {key: checked[key] for key in ("accuracy", "fid_lenet")}
                rows.append({"step": step} | measured)
    except InputError as e:
        parser.error(str(e))
    result = {
        "run": arguments.run,
        "images": arguments.images,
        "seed": arguments.seed,
        "classifier": arguments.classifier,
        "rows": rows,
    }
    print(json.dumps(result | recorder.record(), indent=1))


if __name__ == "__main__":
    main()
