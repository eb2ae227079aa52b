"""One logical DP-SGD step over all devices, as two pure jitted functions.

``accumulate`` adds the clipped gradients of one micro-batch, of one static shape, to a
sum that every device holds of its own examples. ``finish`` adds those up, in the step's
only exchange between devices, adds the noise once, divides by the expected batch size,
and updates weights and average (DPDM, algorithm 1).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dpdm_jax.diffusion.losses import ExampleLoss
from dpdm_jax.privacy.clipping import clipped_grad
from dpdm_jax.training import ema
from dpdm_jax.training.state import TrainState

DATA_AXIS = "data"


class Diagnostics(NamedTuple):
    """Sums over a logical batch. Private: they are not noised.

    Attributes:
        loss: float32 [], sum of the examples' losses.
        grad_norm: float32 [], sum of gradient norms before clipping.
        clipped: float32 [], how many examples were clipped.
        non_finite: float32 [], how many were left out for a non-finite gradient.
        examples: float32 [], how many there were.
    """

    loss: jax.Array
    grad_norm: jax.Array
    clipped: jax.Array
    non_finite: jax.Array
    examples: jax.Array


class PartialSum(NamedTuple):
    """What a logical batch has gathered so far; leading axis: devices.

    Attributes:
        gradient: pytree like params, float32 [devices, ...].
        diagnostics: [devices] each.
    """

    gradient: Any
    diagnostics: Diagnostics


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The functions of a logical step.

    Attributes:
        start: ``start(params) -> PartialSum`` of zeros.
        accumulate: ``accumulate(partial, params, images, labels, is_padding, positions,
            step_key) -> PartialSum``; images float32 [m, h, w, c], labels int32 [m],
            is_padding bool [m], positions int32 [m] in the logical batch.
        finish: ``finish(state, partial) -> (TrainState, Diagnostics)``.
    """

    start: Callable[..., PartialSum]
    accumulate: Callable[..., PartialSum]
    finish: Callable[..., tuple[TrainState, Diagnostics]]


def make_train_step(
    loss: ExampleLoss,
    optimizer: optax.GradientTransformation,
    noise: optax.GradientTransformation,
    normalize: optax.GradientTransformation,
    mesh: Mesh,
    *,
    l2_clip_norm: float,
    ema_decay: float,
    engine: str = "auto",
    engine_microbatch_size: int | None = None,
) -> TrainStep:
    """Builds the functions of a logical step.

    An example's random draws depend on the step and on its position in the logical
    batch, so that neither micro-batches nor devices change them.

    Args:
        loss: loss of one example.
        optimizer: sees the noised mean gradient.
        noise: adds the noise to the sum.
        normalize: divides by the expected batch size.
        mesh: devices with the one axis ``DATA_AXIS``; micro-batches divide over it.
        l2_clip_norm: C.
        ema_decay: nominal decay of the average.
        engine: see ``clipped_grad``.
        engine_microbatch_size: examples that a device's engine works on at once.

    Returns:
        The functions.
    """
    grad_fn = clipped_grad(
        loss,
        l2_clip_norm=l2_clip_norm,
        batch_argnums=(1, 2),
        prng_argnum=3,
        return_values=True,
        return_grad_norms=True,
        microbatch_size=engine_microbatch_size,
        engine=engine,
    )
    replicated = NamedSharding(mesh, P())
    per_device = NamedSharding(mesh, P(DATA_AXIS))

    @functools.partial(jax.jit, out_shardings=per_device)
    def start(params: Any) -> PartialSum:
        def zeros(x: jax.Array) -> jax.Array:
            return jnp.zeros((mesh.size, *x.shape), jnp.float32)

        count = jnp.zeros((mesh.size,), jnp.float32)
        return PartialSum(jax.tree.map(zeros, params), Diagnostics(*5 * [count]))

    def accumulate_on_device(
        partial: PartialSum,
        params: Any,
        images: jax.Array,
        labels: jax.Array,
        is_padding: jax.Array,
        positions: jax.Array,
        step_key: jax.Array,
    ) -> PartialSum:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, positions)
        total, aux = grad_fn(
            params, images, labels, keys, is_padding_example=is_padding
        )
        added = PartialSum(
            total, _diagnostics(aux.values, aux.grad_norms, is_padding, l2_clip_norm)
        )
        return jax.tree.map(lambda a, b: a + b[None], partial, added)

    accumulate = jax.jit(
        jax.shard_map(
            accumulate_on_device,
            mesh=mesh,
            in_specs=(P(DATA_AXIS), P(), *4 * [P(DATA_AXIS)], P()),
            out_specs=P(DATA_AXIS),
            # Each device's sum is its own; nothing is exchanged here.
            check_vma=False,
        ),
        donate_argnums=0,
    )

    @functools.partial(jax.jit, out_shardings=replicated, donate_argnums=0)
    def finish(
        state: TrainState, partial: PartialSum
    ) -> tuple[TrainState, Diagnostics]:
        total, diagnostics = jax.tree.map(lambda x: jnp.sum(x, axis=0), partial)
        noised, noise_state = noise.update(total, state.noise_state)
        mean, _ = normalize.update(noised, normalize.init(None))
        updates, opt_state = optimizer.update(mean, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        decay = ema.decay_at(step, ema_decay)
        next_state = TrainState(
            step=step,
            params=params,
            ema_params=ema.update_average(state.ema_params, params, decay),
            opt_state=opt_state,
            noise_state=noise_state,
        )
        return next_state, diagnostics

    return TrainStep(start, accumulate, finish)


def _diagnostics(
    losses: jax.Array, norms: jax.Array, is_padding: jax.Array, l2_clip_norm: float
) -> Diagnostics:
    finite = jnp.isfinite(norms) & ~is_padding

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(finite, values, 0.0))

    return Diagnostics(
        loss=total(losses),
        grad_norm=total(norms),
        clipped=total(norms > l2_clip_norm),
        non_finite=jnp.sum(~is_padding & ~finite).astype(jnp.float32),
        examples=jnp.sum(~is_padding).astype(jnp.float32),
    )
