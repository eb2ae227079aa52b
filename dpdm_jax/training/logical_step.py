"""The mechanism at work: one step from the choice of its examples to new weights."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from dpdm_jax import data, devices, processes
from dpdm_jax.models.encoding import Encode, as_read
from dpdm_jax.padding import PADDING, pad_indices
from dpdm_jax.privacy import PrivacyPlan
from dpdm_jax.training.secrets import Secrets
from dpdm_jax.training.state import TrainState
from dpdm_jax.training.step import Diagnostics, TrainStep
from dpdm_jax.training.units import images_per_unit, load_units


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """What steps are made of, besides the state.

    Attributes:
        plan: the privacy plan.
        source: the training data.
        step_fns: the compiled step.
        fixed: the parameters that no step changes, on all devices.
        mesh: the devices.
        secrets: the private randomness.
        microbatch_size: units of privacy in one call of the gradient, over all devices.
        encode: makes of the source's examples what the loss takes.
        groups: whose each example of the source is; None if each is a unit of its own.
    """

    plan: PrivacyPlan
    source: data.Source
    step_fns: TrainStep
    fixed: Any
    mesh: Mesh
    secrets: Secrets
    microbatch_size: int
    encode: Encode = as_read
    groups: data.Groups | None = None

    @property
    def num_units(self) -> int:
        """N, the units of privacy that steps choose among."""
        return len(self.source if self.groups is None else self.groups)


def take_step(
    mechanism: Mechanism,
    state: TrainState,
    step: int,
    before_microbatch: Callable[[], None] = lambda: None,
) -> tuple[TrainState, Diagnostics, int]:
    """Takes one logical step.

    Args:
        mechanism: what it is made of.
        state: the state before; its memory may be given away.
        step: steps of the run taken before, those of earlier plans among them.
        before_microbatch: called before each micro-batch; what it raises ends the step.

    Returns:
        The next state; private: sums over the units, and how many there were.
    """
    indices = mechanism.plan.indices(
        mechanism.num_units, mechanism.secrets.selection_seed, step
    )
    key = mechanism.secrets.loss_key(step)
    padded = pad_indices(indices, mechanism.microbatch_size)
    partial = mechanism.step_fns.start(state.params)
    for start in range(0, len(padded), mechanism.microbatch_size):
        with processes.together():
            before_microbatch()
            examples, is_padding, positions = _microbatch(
                mechanism, padded, start, step
            )
        seen = mechanism.encode(mechanism.fixed, examples, positions, key)
        partial = mechanism.step_fns.accumulate(
            partial, state.params, mechanism.fixed, seen, is_padding, positions, key
        )
    state, sums = mechanism.step_fns.finish(state, partial)
    return state, sums, len(indices)


def _microbatch(
    mechanism: Mechanism, padded: np.ndarray, start: int, step: int
) -> tuple[Any, ...]:
    """Loads a part of a logical batch; of it, the units of this process's devices."""
    size = mechanism.microbatch_size
    sharding = devices.divided(mechanism.mesh)
    mine = devices.rows_of_this_process(size, sharding)
    batch = load_units(
        mechanism.source,
        mechanism.groups,
        np.where(mine, padded[start : start + size], PADDING),
        images_per_unit(mechanism.plan.unit),
        mechanism.secrets.selection_seed,
        step,
    )
    positions = np.arange(start, start + size, dtype=np.int32)
    return devices.place((*batch, positions), sharding)
