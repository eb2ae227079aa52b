"""Turns a checkpoint in the official PyTorch format into one that can be sampled from.

python -m dpdm_jax.interop.import_checkpoint --checkpoint=FILE.pth \
    --config=configs/mnist.py:eps=1 --workdir=DIR
"""

import pathlib
from typing import TypeVar

import ml_collections
from absl import flags

from dpdm_jax import command_line, files, planning, run_dir, stored_config, validate
from dpdm_jax.errors import InputError
from dpdm_jax.interop.convert import convert
from dpdm_jax.interop.torch_checkpoints import read_official_checkpoint
from dpdm_jax.models import trainable
from dpdm_jax.models.model import build_model
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.user_paths import user_path

T = TypeVar("T")

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "The official .pth file.")
_CONFIG = command_line.define_config_flag(None)
_WORKDIR = flags.DEFINE_string("workdir", None, "The run directory to create.")


def import_checkpoint(
    checkpoint: pathlib.Path, config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> int:
    """Imports the raw and averaged weights of an official checkpoint.

    Args:
        checkpoint: the .pth file.
        config: a whole config, whose network the weights must fit name by name and
            shape by shape.
        workdir: a directory without checkpoints.

    Returns:
        The step that the official checkpoint states, which counts micro-batches.

    Raises:
        InputError: the file is damaged or foreign, the weights do not fit, or the
            directory holds checkpoints already.
    """
    official = read_official_checkpoint(checkpoint)
    problem = planning.public_problem(config)
    validate.one_of(trainable.FIELD, config.train.trainable, (trainable.ALL,))
    model = build_model(config, problem.image_shape, problem.condition)
    if model.num_trained < model.num_parameters:
        raise InputError(
            f"diffusion.parameterization is {config.diffusion.parameterization!r}, "
            "which keeps what no official checkpoint has; allowed: one of the papers'."
        )
    params = convert(official.model, model.network)
    ema_params = convert(official.ema, model.network)
    checkpoints = Checkpoints(workdir)
    existing = checkpoints.steps()
    checkpoints.close()
    if existing:
        raise InputError(
            f"{workdir} holds checkpoints already; allowed: a new run directory."
        )
    checkpoints = Checkpoints(workdir, keep=1)
    try:
        checkpoints.save_imported(
            model,
            official.step,
            params,
            ema_params,
            config=stored_config.to_values(config),
            origin={"file": checkpoint.name, "format": "official DPDM, PyTorch"},
        )
    finally:
        checkpoints.close()
    files.write_json(
        workdir / run_dir.CONFIG, stored_config.to_values(config), private=True
    )
    return official.step


def main(argv: list[str]) -> None:
    """Reads the flags and imports."""
    del argv
    checkpoint = user_path("--checkpoint", _required(_CHECKPOINT))
    config = _required(_CONFIG)
    workdir = user_path("--workdir", _required(_WORKDIR))
    step = import_checkpoint(checkpoint, config, workdir)
    print(
        f"Imported step {step} into {workdir}; sample from it with --mode=sample. Its "
        "privacy is what its makers state: there is no ledger."
    )


def _required(flag: flags.FlagHolder[T | None]) -> T:
    if flag.value is None:
        raise InputError(f"--{flag.name} is missing; allowed: a path.")
    return flag.value


if __name__ == "__main__":
    command_line.run(main)
