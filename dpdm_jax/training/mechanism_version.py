"""Which mechanism a run was begun with: it must not go on with another.

A run that goes on takes steps again with the noise that they had. A program that draws,
selects, clips, adds up or digests in another way would put that noise onto other sums,
and whoever saw something of both could subtract it.
"""

import pathlib
from typing import Any

from dpdm_jax.errors import InputError

#: Grows with every change that gives a step of a run another sum, other noise or
#: another digest of the data. Checkpoints of version 1 do not state it.
#: 1: sums and noise of float32, 64-bit keys of the loss's draws, a digest of a part of
#: the data.
#: 2: sums and noise of integers, 128-bit keys, a digest of all of the data.
#: 3: parameters that are not trained have no part in the sums.
#: 4: rounded otherwise: gradients of convolutions and norms on CPU, gradients of draws
#: in parts, and latents, which are worked out apart from the step.
#: 5: rounded otherwise: gradients by few rows or pixels on CPU, and those of which
#: engine "auto" takes more at once.
MECHANISM_VERSION = 5


def check_version(workdir: pathlib.Path, described: dict[str, Any]) -> None:
    """Refuses to go on with a run that was begun with another mechanism.

    There is no safe exception: no program can know that no copy of the run goes on with
    the old one.

    Args:
        workdir: the run directory.
        described: what a checkpoint of it says; see ``Checkpoints.description``.

    Raises:
        InputError: it is another one than ``MECHANISM_VERSION``.
    """
    version = described.get("mechanism_version", 1)
    if version != MECHANISM_VERSION:
        raise InputError(
            f"{workdir} was begun with version {version} of the training mechanism, "
            f"and this software has version {MECHANISM_VERSION}, which would put the "
            "same noise onto other sums; allowed: the software that began it, sampling "
            "and releasing what it has, or a new run directory, whose budget adds to "
            "this one's."
        )
