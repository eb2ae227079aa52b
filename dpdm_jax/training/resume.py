"""Going on with a run: its newest sound checkpoint, if it is one of this run."""

import functools
import logging
import pathlib
from collections.abc import Iterable
from typing import Any

import ml_collections

from dpdm_jax import json_values, processes, run_dir, settings, stored_config
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import Model
from dpdm_jax.privacy import LedgerRecord
from dpdm_jax.training import arithmetic
from dpdm_jax.training.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    Restored,
)
from dpdm_jax.training.mechanism_version import check_version
from dpdm_jax.training.secrets import Secrets
from dpdm_jax.training.shared_ledger import SharedLedger
from dpdm_jax.training.state import TrainState

_log = logging.getLogger(__name__)

# Fields that move the data, or the speed, but no gradient beyond its last bits, see
# ``arithmetic``. What a vocabulary makes of captions is digested with the data.
_MAY_CHANGE = frozenset(
    {
        "data.captions.vocabulary",
        "data.path",
        "train.engine",
        "train.engine_microbatch_size",
        "train.microbatch_size",
        "train.sharded_state",
        "train.stop_after_steps",
    }
)


def restore(
    workdir: pathlib.Path,
    checkpoints: Checkpoints,
    ledger: SharedLedger | None,
    model: Model,
    template: tuple[TrainState, Any],
    config: ml_collections.ConfigDict,
    content: bytes,
) -> Restored:
    """Reads the newest sound checkpoint, if it is one of this run.

    Damaged ones are put aside once an earlier one was found sound; from there the run
    takes the steps between again, with the same batches and noise. Without a sound one
    there is nothing to go on from: new secrets would make it another run, whose privacy
    loss adds to that of the steps already counted.
    """
    with processes.together():
        if ledger is None:
            raise InputError(
                f"{workdir} has checkpoints but no {run_dir.LEDGER}, so what was spent "
                "is unknown; allowed: a run directory with its ledger, or a new one."
            )

    described: dict[str, Any] = {}

    def check(stored: dict[str, Any]) -> None:
        described.update(stored)
        check_is_of_run(workdir, stored, ledger.record)
        check_version(workdir, stored)
        old = stored_config.read(stored["config"], f"the checkpoint of {workdir}")
        _check_unchanged(
            json_values.encode(old.to_dict()), json_values.encode(config.to_dict())
        )

    damaged: dict[int, str] = {}
    for step in reversed(checkpoints.steps()):
        damage = None
        with processes.together():  # what Orbax reads, all read alike
            try:
                restored = checkpoints.restore(
                    step,
                    model,
                    *template,
                    check,
                )
            except DamagedCheckpointError as e:
                damage = e.damage
        processes.check_same("What is damaged", functools.partial(bool, damage))
        if damage is None:
            break
        damaged[step] = damage
    with processes.together():
        if len(damaged) == len(checkpoints.steps()):
            raise InputError(
                f"{damaged[max(damaged)]}, and no checkpoint before it is sound; "
                "allowed: a backup of one of them beside the present "
                f"{run_dir.LEDGER}, or a new run directory, whose budget adds to this "
                "one's."
            )
        # Of a damaged one, too, which its name alone tells.
        check_counted(workdir, max(checkpoints.steps()), ledger.record)
        _check_secrets(checkpoints, damaged, restored.secrets)
        arithmetic.check_taken_again(
            workdir,
            int(restored.state.step),
            described,
            config,
            authorized_steps=ledger.record.authorized_steps,
            is_kept=bool(damaged),
        )
        if restored.data_digest != restored.secrets.data_digest(content):
            raise InputError(
                f"The training data is not that which {workdir} was begun with, whose "
                "noise would go onto other sums; allowed: the same images, labels and "
                "order, or a new run directory."
            )
    for each, damage in damaged.items():
        kept = checkpoints.set_aside(each)
        _log.warning(
            "%s; it is kept as %s, and the run goes on from step %d.",
            damage,
            kept.relative_to(workdir),
            int(restored.state.step),
        )
    return restored


def _check_secrets(
    checkpoints: Checkpoints, damaged: Iterable[int], secrets: Secrets
) -> None:
    """Refuses to take steps again with other noise than they may have had."""
    for step in damaged:
        try:
            same = checkpoints.read_secrets(step).to_dict() == secrets.to_dict()
        except DamagedCheckpointError:
            continue  # not readable; the run's name has paired the checkpoints
        if not same:
            raise InputError(
                f"The damaged checkpoint of step {step} has other keys than those "
                "before it; allowed: checkpoints of one run in a directory."
            )


def check_is_of_run(
    workdir: pathlib.Path, stored: dict[str, Any], record: LedgerRecord
) -> None:
    """Checks a checkpoint's description against the ledger.

    Args:
        workdir: the run directory of both.
        stored: what the checkpoint says; see ``Checkpoints.description``. Its step
            is compared where it is said.
        record: the ledger.

    Raises:
        InputError: they are of two runs, or the ledger counts less than it did.
    """
    if stored["run_id"] != record.run_id:
        raise InputError(
            f"The checkpoints of {workdir} are of run {stored['run_id']} and its "
            f"ledger of run {record.run_id}; allowed: one run in a directory."
        )
    if "step" in stored:
        check_counted(workdir, stored["step"], record)
    if not record.continues(LedgerRecord.from_dict(stored["ledger"])):
        raise InputError(
            f"The ledger of {workdir} counts less than its copy in a checkpoint, or "
            "something else; allowed: the run's newest ledger."
        )


def check_counted(workdir: pathlib.Path, step: int, record: LedgerRecord) -> None:
    """Makes sure that a ledger counts the steps of a checkpoint.

    Raises:
        InputError: it does not.
    """
    if step > record.authorized_steps:
        raise InputError(
            f"{workdir} has a checkpoint of step {step} and its ledger counts "
            f"{record.authorized_steps} steps; allowed: a ledger that counts every "
            "step."
        )


def _check_unchanged(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuses to resume with other gradients under the noise of steps already taken.

    Steps after the newest checkpoint are taken again with the noise they had. If their
    sums were different ones, whoever saw something of both could subtract the noise.
    """
    changed = [
        f"{name} {settings.lookup(old, name)!r} -> {settings.lookup(new, name)!r}"
        for group in ("data", "network", "diffusion", "train", "seed")
        for name in settings.names({group: new[group]})
        if settings.lookup(old, name) != settings.lookup(new, name)
        and name not in _MAY_CHANGE
    ]
    if changed:
        raise InputError(
            f"The run was started with other settings ({', '.join(changed)}); allowed "
            "to change on resuming: logging, checkpoints, samples and "
            f"{', '.join(sorted(_MAY_CHANGE))}."
        )
