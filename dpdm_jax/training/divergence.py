"""What tells that a run has diverged: of its weights, and of its private gradients.

Weights come out of the mechanism, so that a run may stop over them. Which examples have
finite gradients is private: of that the owner is told, and the run goes on.
"""

from typing import Any

import jax
import numpy as np

from dpdm_jax import devices
from dpdm_jax.errors import InputError
from dpdm_jax.training.step import Diagnostics

#: So many logged steps in a row without a finite gradient are told to the owner.
PATIENCE = 10


def are_finite(params: Any) -> bool:
    """Whether no weight is NaN or infinite.

    Args:
        params: pytree of float arrays.
    """
    return all(np.isfinite(devices.to_host(x)).all() for x in jax.tree.leaves(params))


def check(weights: Any, step: int, group: str) -> None:
    """Stops a training that is lost; it may, since the weights are what is kept of it.

    Args:
        weights: pytree of float arrays.
        step: steps that were taken.
        group: of the config, that has the learning rate.

    Raises:
        InputError: a weight is NaN or infinite.
    """
    if not are_finite(weights):
        raise InputError(
            f"The weights are not finite after step {step}, which no further step "
            f"mends; allowed: a new run, with a lower {group}.learning_rate."
        )


class GradientWatch:
    """Counts logged steps in a row whose examples all had non-finite gradients."""

    def __init__(self) -> None:
        """Begins with none."""
        self._in_a_row = 0

    def is_time_to_warn(self, sums: Diagnostics) -> bool:
        """Takes note of a logged step; True at the ``PATIENCE``-th in a row.

        Args:
            sums: of the step; one without examples changes nothing.
        """
        if float(sums.examples) == 0:
            return False
        left_out = float(sums.non_finite) == float(sums.examples)
        self._in_a_row = self._in_a_row + 1 if left_out else 0
        return self._in_a_row == PATIENCE
