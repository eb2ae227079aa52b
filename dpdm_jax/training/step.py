"""One logical DP-SGD step over all devices, as two pure jitted functions.

``accumulate`` adds the clipped gradients of one micro-batch, of one static shape, to a
sum that every device holds of its own examples. An example is what the guarantee is
for: an image, or a group of images, whose losses are averaged before the one clip.
``finish`` adds those up, adds noise once, divides by the expected batch size, and
updates weights and averages (DPDM, algorithm 1).

A device's sum is exchanged as one array of integers, however many leaves the weights
have (``exchange``); a second exchange adds up a few diagnostics. All devices then hold
the whole sum, the same to the last bit however many they are, and add the same noise to
it; where ``draws_in_parts``, each draws a part of the noise, and an all-gather joins
the parts.

Where the state is ``sharded``, each device is given a part of the sum, adds the noise
of that part, and updates its part of weights, averages and what the optimizer keeps;
all-gathers, one a leaf, join the weights alone. While examples are worked through, each
device's own sum is whole: an engine adds to it example by example.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dpdm_jax import devices
from dpdm_jax.devices import DATA_AXIS
from dpdm_jax.models import image_keys
from dpdm_jax.models.model import TrainedLoss
from dpdm_jax.privacy.clipping import clipped_grad
from dpdm_jax.privacy.exact import packing
from dpdm_jax.training import ema, exchange, unit_loss
from dpdm_jax.training import power_averages as power
from dpdm_jax.training.ordinary import ordinary_grad
from dpdm_jax.training.state import TrainState, layout


class Diagnostics(NamedTuple):
    """Sums over a logical batch. Private: they are not noised.

    Attributes:
        loss: float32 [], sum of the examples' losses.
        grad_norm: float32 [], sum of gradient norms before clipping; not a number where
            there are none.
        clipped: float32 [], how many examples were clipped.
        non_finite: float32 [], how many were left out for a non-finite gradient.
        examples: float32 [], how many there were.
    """

    loss: jax.Array
    grad_norm: jax.Array
    clipped: jax.Array
    non_finite: jax.Array
    examples: jax.Array


class Partial(NamedTuple):
    """What each device has summed of a logical batch.

    Attributes:
        total: a sum of ``clipped_grad`` as ``packing.pack`` has it, its vectors
            [devices, ...].
        counts: float32 [devices, 5], the ``Diagnostics``.
    """

    total: Any
    counts: jax.Array


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """The functions of a logical step.

    Attributes:
        start: ``start(params) -> Partial`` of zeros.
        accumulate: ``accumulate(partial, params, fixed, examples, is_padding,
            positions, step_key) -> partial``; examples a tree of arrays [m g, ...] of
            images and is_padding bool [m g], for m units of g images, one after
            another; positions int32 [m] of the units in the logical batch.
        finish: ``finish(state, partial) -> (TrainState, Diagnostics)``.
    """

    start: jax.stages.Wrapped
    accumulate: jax.stages.Wrapped
    finish: jax.stages.Wrapped


def make_train_step(
    loss: TrainedLoss,
    optimizer: optax.GradientTransformation,
    noise: optax.GradientTransformation,
    normalize: optax.GradientTransformation,
    mesh: Mesh,
    *,
    l2_clip_norm: float,
    ema_decay: float,
    power_averages: Sequence[float] = (),
    engine: str = "auto",
    engine_microbatch_size: int | None = None,
    sharded: bool = False,
    images_per_unit: int = 1,
) -> TrainStep:
    """Builds the functions of a logical step.

    Without clipping (C infinite) the sum of examples' gradients is the gradient of
    their sum, which is ordinary training at its ordinary cost.

    An example's random draws depend on the step and on its position in the logical
    batch, so that neither micro-batches nor devices change them.

    Args:
        loss: loss of one image, by trained and fixed parameters.
        optimizer: sees the noised mean gradient.
        noise: adds the noise to the sum.
        normalize: divides by the expected batch size.
        mesh: devices with the one axis ``DATA_AXIS``; micro-batches divide over it.
        l2_clip_norm: C.
        ema_decay: nominal decay of the average that samples are drawn from.
        power_averages: lengths of further averages, which a state may have.
        engine: see ``clipped_grad``.
        engine_microbatch_size: examples that a device's engine works on at once.
        sharded: whether devices keep a part of the state each, see ``state.layout``.
            The noise then has the ``layout`` of ``devices.spread``.
        images_per_unit: g, the room for images in a unit of privacy, >= 1. Whatever
            there is room for, the unit's gradient is the mean of its images' and is
            clipped once.

    Returns:
        The functions.
    """
    if images_per_unit > 1:
        loss = unit_loss.of_units(loss)
    clipped = functools.partial(
        clipped_grad,
        l2_clip_norm=l2_clip_norm,
        batch_argnums=1,
        prng_argnum=2,
        return_values=True,
        return_grad_norms=True,
        microbatch_size=engine_microbatch_size,
        engine=engine,
    )
    is_ordinary = math.isinf(l2_clip_norm)
    zeros = clipped(loss).zeros  # checks the options, before anything is written
    replicated = devices.replicated(mesh)

    def unpacked(total: list[jax.Array], params: Any) -> Any:
        return packing.unpack(total, jax.eval_shape(zeros, params))

    @functools.partial(jax.jit, out_shardings=devices.divided(mesh))
    def start(params: Any) -> Partial:
        nothing = Partial(
            packing.pack(zeros(params)),
            jnp.zeros(len(Diagnostics._fields), jnp.float32),
        )
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (mesh.size, *x.shape)), nothing
        )

    def accumulate_on_device(
        partial: Partial,
        params: Any,
        fixed: Any,
        examples: Any,
        is_padding: jax.Array,
        positions: jax.Array,
        step_key: jax.Array,
    ) -> Partial:
        if images_per_unit > 1:
            examples, is_padding = unit_loss.as_units(
                examples, is_padding, images_per_unit
            )
        keys = image_keys.of_units(step_key, positions)

        def with_fixed(params: Any, example: Any, key: jax.Array) -> jax.Array:
            return loss(params, fixed, example, key)

        grad_fn = (
            ordinary_grad(with_fixed, engine_microbatch_size)
            if is_ordinary
            else clipped(with_fixed)
        )
        total, counts = jax.tree.map(lambda x: x[0], partial)
        total, aux = grad_fn(
            params,
            examples,
            keys,
            is_padding_example=is_padding,
            total=unpacked(total, params),
        )
        assert aux.values is not None  # asked for
        more = _diagnostics(aux.values, aux.grad_norms, is_padding, l2_clip_norm)
        added = Partial(packing.pack(total), counts + jnp.stack(more))
        return jax.tree.map(lambda x: x[None], added)

    accumulate = jax.jit(
        jax.shard_map(
            accumulate_on_device,
            mesh=mesh,
            in_specs=(P(DATA_AXIS), P(), P(), *3 * [P(DATA_AXIS)], P()),
            out_specs=P(DATA_AXIS),
            # Each device's sum is its own; nothing is exchanged here.
            check_vma=False,
        ),
        donate_argnums=0,
    )

    decays = power.decays(ema_decay, power_averages)
    kept = None if sharded else replicated  # None: as constrained
    states: Any = TrainState(
        step=replicated,  # type: ignore[arg-type]  # where it is
        params=replicated,
        averages=kept,  # type: ignore[arg-type]  # likewise, of all
        opt_state=kept,
        noise_state=replicated,
    )

    @functools.partial(jax.jit, out_shardings=(states, replicated), donate_argnums=0)
    def finish(state: TrainState, partial: Partial) -> tuple[TrainState, Diagnostics]:
        if sharded:  # a part of each leaf, which are laid out one by one
            of_devices = jax.vmap(unpacked, (0, None))(partial.total, state.params)
            total = exchange.added_up_in_parts(of_devices, mesh)
        else:
            total = unpacked(exchange.added_up(partial.total), state.params)
        noised, noise_state = noise.update(total, state.noise_state)
        diagnostics = Diagnostics(*jnp.sum(partial.counts, axis=0))
        mean, _ = normalize.update(noised, normalize.init(None))
        before = state.params
        if sharded:  # each device moves the weights that it holds the rest of
            where = layout(state, mesh, sharded=True)
            parts = where.averages[ema.NAME]
            before = jax.lax.with_sharding_constraint(before, parts)
        updates, opt_state = optimizer.update(mean, state.opt_state, before)
        params = optax.apply_updates(before, updates)
        step = state.step + 1
        next_state = TrainState(
            step=step,
            params=params,
            averages={
                name: ema.update_average(average, params, decays[name](step))
                for name, average in state.averages.items()
            },
            opt_state=opt_state,
            noise_state=noise_state,
        )
        if sharded:
            next_state = jax.lax.with_sharding_constraint(next_state, where)
        return next_state, diagnostics

    return TrainStep(start, accumulate, finish)


def draws_in_parts(mesh: Mesh) -> bool:
    """Whether devices should draw a part of the noise each.

    On CPUs a draw takes many times the memory of its result, which counts where devices
    share it; other compilers fuse it with the addition.
    """
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"


def _diagnostics(
    losses: jax.Array,
    norms: jax.Array | None,
    is_padding: jax.Array,
    l2_clip_norm: float,
) -> Diagnostics:
    finite = jnp.isfinite(losses if norms is None else norms) & ~is_padding

    def total(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(finite, values, 0.0))

    return Diagnostics(
        loss=total(losses),
        grad_norm=jnp.float32(jnp.nan) if norms is None else total(norms),
        clipped=jnp.zeros(()) if norms is None else total(norms > l2_clip_norm),
        non_finite=jnp.sum(~is_padding & ~finite).astype(jnp.float32),
        examples=jnp.sum(~is_padding).astype(jnp.float32),
    )
