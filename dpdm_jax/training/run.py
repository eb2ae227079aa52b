"""A run: what its steps are taken with, and how its state is kept."""

import dataclasses
import pathlib
from typing import Any

import ml_collections
from jax.sharding import Mesh

from dpdm_jax import data, stored_config
from dpdm_jax.models.encoding import Encode
from dpdm_jax.models.model import Model
from dpdm_jax.privacy import PrivacyPlan
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.secrets import Secrets
from dpdm_jax.training.shared_ledger import SharedLedger
from dpdm_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to take its next step.

    Attributes:
        config: the whole config.
        workdir: the run directory.
        plan: the privacy plan, with those that it extends.
        source: the training data, bound to ``content``.
        groups: whose its images are; None if each is a unit of privacy by itself.
        encode: makes of its examples what the loss takes.
        content: digest of all of the training data, private; see ``data.bind``.
        model: what is trained.
        fixed: its parameters that no step changes, on all devices.
        mesh: the devices.
        secrets: the private randomness that the run was begun with.
        ledger: authorises steps.
        checkpoints: of this run.
    """

    config: ml_collections.ConfigDict
    workdir: pathlib.Path
    plan: PrivacyPlan
    source: data.Source
    groups: data.Groups | None
    encode: Encode
    content: bytes
    model: Model
    fixed: Any
    mesh: Mesh
    secrets: Secrets
    ledger: SharedLedger
    checkpoints: Checkpoints


def save(run: Run, state: TrainState) -> None:
    """Writes a checkpoint of a state, unless its step has one.

    Raises:
        InputError: there is no room for it.
    """
    if int(state.step) in run.checkpoints.steps():
        return
    run.checkpoints.save(
        run.model,
        state,
        run.fixed,
        run.secrets,
        run_id=run.ledger.record.run_id,
        config=stored_config.to_values(run.config),
        ledger=run.ledger.record.to_dict(),
        data_digest=run.secrets.data_digest(run.content),
    )
