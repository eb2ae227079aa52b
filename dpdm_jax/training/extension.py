"""Further steps of a run: an explicit plan within a new budget for the whole of it."""

import contextlib
import pathlib
from collections.abc import Callable

import ml_collections

from dpdm_jax import planning, processes, run_dir
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import Ledger, extension_text, read_ledger
from dpdm_jax.training.checkpoints import Checkpoints, DamagedCheckpointError
from dpdm_jax.training.mechanism_version import check_version


def extend(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    announce: Callable[[str], None],
) -> None:
    """Adds steps to the plan in a run's ledger; training then goes on with them.

    They come behind all that were planned before. Whatever of those was not taken yet
    is taken first, and counts in any case.

    Args:
        config: the whole config; reads ``extend``.
        workdir: the run directory.
        announce: is told what was spent, what is added and the total, before anything
            is written.

    Raises:
        InputError: there is no run, or it is in use, or it was begun with another
            mechanism, or a field is out of range.
    """
    path = workdir / run_dir.LEDGER

    def check_is_run() -> None:
        if not path.is_file():
            raise InputError(
                f"{workdir} holds no run to extend; allowed: the --workdir of a run."
            )

    processes.from_first(check_is_run)
    _check_mechanism(workdir)
    processes.from_first(lambda: _extend(config, path, announce))


def _check_mechanism(workdir: pathlib.Path) -> None:
    checkpoints = Checkpoints(workdir)
    try:
        for step in checkpoints.steps():
            # Of a damaged one training decides, which the others must fit.
            with contextlib.suppress(DamagedCheckpointError):
                check_version(workdir, checkpoints.description(step))
    finally:
        checkpoints.close()


def _extend(
    config: ml_collections.ConfigDict,
    path: pathlib.Path,
    announce: Callable[[str], None],
) -> None:
    with run_dir.locked(path.parent):
        ledger = Ledger(path, read_ledger(path))
        plan = planning.extended_plan(config.extend, ledger.record)
        announce(extension_text(ledger.record, plan))
        ledger.extend(plan)
