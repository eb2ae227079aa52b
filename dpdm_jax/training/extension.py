"""Further steps of a run: an explicit plan within a new budget for the whole of it."""

import pathlib
from collections.abc import Callable

import ml_collections

from dpdm_jax import planning, run_dir
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import Ledger, extension_text, read_ledger


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
        InputError: there is no run, or it is in use, or a field is out of range.
    """
    path = workdir / run_dir.LEDGER
    if not path.is_file():
        raise InputError(
            f"{workdir} holds no run to extend; allowed: the --workdir of a run."
        )
    with run_dir.locked(workdir):
        ledger = Ledger(path, read_ledger(path))
        plan = planning.extended_plan(config.extend, ledger.record)
        announce(extension_text(ledger.record, plan))
        ledger.extend(plan)
