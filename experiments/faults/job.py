"""What is killed: one run of a tiny network, from training to release.

A process that is given a number kills itself right before its so-many-th change of a
file system's names below the run directory.
"""

import os
import pathlib
import signal
import sys

import ml_collections

from dpdm_jax import command_line, settings, xla_flags
from dpdm_jax.release.build import release
from dpdm_jax.sampling import parts
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training import loop, prepare
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.secrets import Secrets, fixed_secrets

# No device is used before the fork: JAX's threads would not survive it.
xla_flags.configure()

STEPS = 6
_IMAGES_IN_A_PART = 6
_FIELDS = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "diffusion.noise_multiplicity": 2,
    "train.batch_size": 100,
    "train.num_steps": STEPS,
    "train.microbatch_size": 128,
    "checkpoint.every_steps": 2,
    "checkpoint.keep": 2,
    "log.every_steps": 1,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
    "sampler.num_steps": 3,
    "sample.num_images": 3 * _IMAGES_IN_A_PART,
    "sample.batch_size": _IMAGES_IN_A_PART,
    "release.samples": "samples",
}

# Audit events that change names, and ``open``, which may make one.
_CHANGES = frozenset(
    {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
)


def make_config() -> ml_collections.ConfigDict:
    """Returns the config of the run."""
    config = command_line.load_config("configs/digits.py")
    for name, value in _FIELDS.items():
        settings.assign(config, name, value)
    return config


def secrets_of(seed: int, attempt: int) -> Secrets:
    """Returns the secrets that an attempt would draw, were it the first."""
    return fixed_secrets(1_000_000 * (seed + 1) + attempt)


def work(
    workdir: pathlib.Path,
    seed: int,
    attempt: int,
    kill_at: int | None,
    errors: pathlib.Path,
    count: pathlib.Path,
) -> None:
    """Trains, samples and releases, or goes on with that: the body of a process.

    Args:
        workdir: the run directory.
        seed: of the stand-in for the operating system's entropy.
        attempt: how often this has been tried before. Every attempt would draw other
            secrets, so that one which draws when it must not is found out.
        kill_at: which change of names the process does not live to make; None for none.
        errors: file that takes what is written to standard error.
        count: file that takes the number of changes, at the end.
    """
    handle = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    prepare.fresh_secrets = lambda: secrets_of(seed, attempt)
    parts.PART_SIZE = _IMAGES_IN_A_PART
    changes = _Changes(workdir, kill_at)
    sys.addaudithook(changes)
    config = make_config()
    if _newest_step(workdir) < STEPS:
        loop.train(config, workdir)
    sampling_run.sample(config, workdir)
    release(config, workdir)
    made = changes.made
    count.write_text(str(made))


def _newest_step(workdir: pathlib.Path) -> int:
    checkpoints = Checkpoints(workdir)
    try:
        return max(checkpoints.steps(), default=-1)
    finally:
        checkpoints.close()


class _Changes:
    """An audit hook that counts changes of names below a folder."""

    def __init__(self, folder: pathlib.Path, kill_at: int | None):
        self.made = 0
        self._folder = str(folder)
        self._kill_at = kill_at

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in _CHANGES or not self._is_below(event, arguments):
            return
        self.made += 1
        if self.made == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_below(self, event: str, arguments: tuple) -> bool:
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return False
        else:
            path = arguments[0]
            # Names relative to an open folder: the removal of a tree.
            if event in ("os.remove", "os.rmdir") and arguments[1] != -1:
                return True
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False  # a handle
        return os.fsdecode(path).startswith(self._folder)
