"""Everything that the next training step depends on, besides data and config."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a run after ``step`` optimizer steps.

    Attributes:
        step: int32 [].
        params: pytree, float32; those that are trained, see ``models.partition``.
        ema_params: pytree like params; what samples are drawn from.
        opt_state: of the optimizer; public, for it saw noised gradients only.
        noise_state: of the Gaussian noise. Secret: it holds the noise key.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any
    noise_state: Any


def create_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    noise: optax.GradientTransformation,
) -> TrainState:
    """Returns the state before the first step; the average starts at the weights."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A copy: steps may give their inputs' memory away, each part once.
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        noise_state=noise.init(params),
    )
