"""Everything that the next training step depends on, besides data and config."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from dpdm_jax import devices
from dpdm_jax.training import ema
from dpdm_jax.training import power_averages as power


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """State of a run after ``step`` optimizer steps.

    Attributes:
        step: int32 [].
        params: pytree, float32; those that are trained, see ``models.partition``.
        averages: of the weights, each a pytree like params, under its name.
        opt_state: of the optimizer; public, for it saw noised gradients only.
        noise_state: of the Gaussian noise. Secret: it holds the noise key.
    """

    step: jax.Array
    params: Any
    averages: dict[str, Any]
    opt_state: Any
    noise_state: Any

    @property
    def ema_params(self) -> Any:
        """The exponential moving average, which samples are drawn from."""
        return self.averages[ema.NAME]

    @property
    def power_averages(self) -> dict[str, Any]:
        """The averages from which others are rebuilt."""
        return {k: v for k, v in self.averages.items() if k != ema.NAME}


def create_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    noise: optax.GradientTransformation,
    power_averages: Sequence[float] = (),
) -> TrainState:
    """Returns the state before the first step; averages start at the weights.

    Args:
        params: float32; those that are trained.
        optimizer: see ``TrainState.opt_state``.
        noise: see ``TrainState.noise_state``.
        power_averages: lengths of averages besides that which samples are drawn from;
            see ``power_averages``.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # A copy: steps may give their inputs' memory away, each part once.
        averages={
            name: jax.tree.map(jnp.copy, params)
            for name in (ema.NAME, *map(power.name_of, power_averages))
        },
        opt_state=optimizer.init(params),
        noise_state=noise.init(params),
    )


def layout(state: TrainState, mesh: Mesh, *, sharded: bool) -> TrainState:
    """Returns where a state's arrays are, as a tree of shardings like it.

    Args:
        state: a state, or shapes.
        mesh: the devices.
        sharded: whether each device holds a part of the averages and of what the
            optimizer keeps, instead of all of it (ZeRO, Rajbhandari et al. 2020, arXiv
            1910.02054). The weights, which every gradient needs, are whole.
    """
    whole = devices.replicated(mesh)

    def everywhere(tree: Any) -> Any:
        return jax.tree.map(lambda _: whole, tree)

    def parts(tree: Any) -> Any:
        return jax.tree.map(lambda x: devices.spread(mesh, x.shape), tree)

    kept = parts if sharded else everywhere
    return TrainState(
        step=whole,  # type: ignore[arg-type]  # where it is
        params=everywhere(state.params),
        averages=kept(state.averages),
        opt_state=kept(state.opt_state),
        noise_state=everywhere(state.noise_state),
    )
