"""Gaussian noise and normalization of the clipped sum, as optax transforms."""

import itertools
import math
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32, Key

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize
from dpdm_jax.privacy.exact import discrete_gaussian
from dpdm_jax.privacy.exact.grid import ExactSum, words_to_float

#: ``layout(shape)``, of an array.
Layout = Callable[[tuple[int, ...]], NamedSharding]
# Of keys, whose bits are drawn by counters.
_IMPLEMENTATION = "threefry2x32"


class GaussianNoiseState(NamedTuple):
    """State of ``gaussian_noise``. Secret: whoever holds the key can remove the noise.

    Attributes:
        key: typed PRNG keys; the noise is a function of all of them and ``count``.
        count: updates so far.
    """

    key: Key[Array, " n"]
    count: Int32[Array, ""] | np.int32  # type: ignore[assignment]  # hides tuple.count


def new_noise_key() -> Key[Array, "2"]:
    """Draws a 128-bit noise key from the operating system's entropy.

    Returns:
        Two independent threefry keys, for ``gaussian_noise``.
    """
    words = jnp.frombuffer(os.urandom(16), jnp.uint32).reshape(2, 2)
    return jax.random.wrap_key_data(words, impl=_IMPLEMENTATION)


def gaussian_noise(
    stddev: float,
    key: Key[Array, ""] | Key[Array, " n"],
    *,
    sharding: NamedSharding | None = None,
    layout: Layout | None = None,
) -> optax.GradientTransformation:
    """Adds fresh independent Gaussian noise to every coordinate of an exact sum.

    The noise is a discrete Gaussian on the sum's grid, drawn and added as integers, so
    that which numbers can come out does not depend on the sum. The result is float32.

    The n-th update's noise depends on the key and n alone, so a run that is restored
    from its state repeats the noise it had used, and never releases a second draw for
    the same step.

    Args:
        stddev: standard deviation, 0, or 2^-24 to 2^17 times the sum's clip norm; for
            DP-SGD noise multiplier times sensitivity.
        key: one or several. JAX's threefry keys have 64 bits; streams of
            several keys are combined by exclusive-or, so that n keys have 64 n. Take it
            from ``new_noise_key()``, and never from a published seed.
        sharding: of a vector: under ``jit`` each device draws its part, and the parts
            are gathered. None draws all noise on every device. It is the same noise.
        layout: of leaves, by their shapes, over one axis of devices: under ``jit`` each
            device draws the noise of what it holds of them, and no more; takes the
            place of ``sharding``. It is the same noise.

    Returns:
        The transform from ``ExactSum`` to float32 leaves; its state holds the key. With
        a standard deviation of 0 it passes on float arrays, too.

    Raises:
        InputError: stddev is negative or not finite, or key is not a typed threefry
            key; from the transform, what it is given is no exact sum, or stddev is out
            of range for it.
    """
    validate.real("The standard deviation of the noise", stddev, minimum=0.0)
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise InputError(
            f"The noise key is a {type(key).__name__}; allowed: typed PRNG keys, as "
            "privacy.new_noise_key() makes them."
        )
    if str(jax.random.key_impl(key)) != _IMPLEMENTATION:
        raise InputError(
            f"The noise key is one of {jax.random.key_impl(key)}; allowed: "
            f"{_IMPLEMENTATION}, as privacy.new_noise_key() makes them."
        )

    def init_fn(params: Any) -> GaussianNoiseState:
        del params  # the noise has the shape of the updates
        return GaussianNoiseState(key=key.reshape(-1), count=jnp.zeros((), jnp.int32))

    def update_fn(
        updates: Any, state: GaussianNoiseState, params: Any = None
    ) -> tuple[Any, GaussianNoiseState]:
        del params
        next_state = GaussianNoiseState(state.key, optax.safe_increment(state.count))
        if stddev == 0:
            is_exact = isinstance(updates, ExactSum)
            return updates.to_float() if is_exact else updates, next_state
        if not isinstance(updates, ExactSum):
            raise InputError(
                "Noise is to go on floating-point numbers, whose last bits it would "
                "not hide; allowed: an exact sum, as privacy.clipped_grad or "
                "privacy.exact_sum gives it."
            )
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(updates.low))
        if size > discrete_gaussian.MAX_SIZE:
            raise InputError(
                f"The sum has {size} numbers, and noise would come twice in them; "
                f"allowed: at most {discrete_gaussian.MAX_SIZE}."
            )
        # Each key is folded with its position: two equal ones would cancel otherwise.
        keys = jax.vmap(jax.random.fold_in)(state.key, jnp.arange(state.key.size))
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.count)
        if layout is not None:
            return _noised_in_parts(updates, stddev, step_keys, layout), next_state
        return _noised(updates, stddev, step_keys, sharding), next_state

    return optax.GradientTransformation(init_fn, update_fn)


def _noised(
    total: ExactSum,
    stddev: float,
    keys: jax.Array,
    sharding: NamedSharding | None,
) -> Any:
    lows, treedef = jax.tree.flatten(total.low)
    highs = jax.tree.leaves(total.high)
    size = sum(leaf.size for leaf in lows)
    if size == 0:
        return total.to_float()
    # One draw for all leaves: every separate draw is compiled apart, which takes XLA
    # tens of seconds for a network of a few hundred leaves.
    drawn = discrete_gaussian.draw(keys, size, stddev / total.spacing, sharding)
    return jax.tree.unflatten(treedef, _added(lows, highs, drawn, total.spacing))


def _noised_in_parts(
    total: ExactSum, stddev: float, keys: jax.Array, layout: Layout
) -> Any:
    """The same where each device holds parts of leaves, and gives those parts."""
    lows, treedef = jax.tree.flatten(total.low)
    highs = jax.tree.leaves(total.high)
    if sum(leaf.size for leaf in lows) == 0:
        return total.to_float()
    shardings = [layout(leaf.shape) for leaf in lows]
    offsets = itertools.accumulate((leaf.size for leaf in lows), initial=0)
    wholes = [
        (leaf.shape, offset, sharding.spec)
        for leaf, offset, sharding in zip(lows, offsets, shardings, strict=False)
    ]

    def on_device(
        key_data: jax.Array, lows: list[jax.Array], highs: list[jax.Array]
    ) -> list[jax.Array]:
        keys = jax.random.wrap_key_data(key_data, impl=_IMPLEMENTATION)
        positions = [
            _positions(part.shape, *whole).reshape(-1)
            for part, whole in zip(lows, wholes, strict=True)
        ]
        drawn = discrete_gaussian.draw_at(
            keys, jnp.concatenate(positions), stddev / total.spacing
        )
        return _added(lows, highs, drawn, total.spacing)

    specs = [sharding.spec for sharding in shardings]
    noised = jax.shard_map(
        on_device,
        mesh=shardings[0].mesh,
        in_specs=(P(), specs, specs),
        out_specs=specs,
        check_vma=False,
    )(jax.random.key_data(keys), lows, highs)
    return jax.tree.unflatten(treedef, noised)


def _positions(
    part: tuple[int, ...], whole: tuple[int, ...], offset: int, spec: P
) -> jax.Array:
    """Where the coordinates of a device's part of a leaf are among all leaves'.

    Args:
        part: shape of the part.
        whole: shape of the leaf.
        offset: of the leaf's first coordinate.
        spec: of the leaf.

    Returns:
        uint32, of the part's shape.
    """
    found = jnp.zeros((), jnp.uint32)
    names = [*spec, *(len(whole) - len(spec)) * [None]]
    for held, size, name in zip(part, whole, names, strict=True):
        index = jnp.arange(held, dtype=jnp.uint32)
        if name is not None:
            index = index + lax.axis_index(name).astype(jnp.uint32) * jnp.uint32(held)
        found = found[..., None] * jnp.uint32(size) + index
    return found + jnp.uint32(offset)


def _added(
    lows: list[jax.Array],
    highs: list[jax.Array],
    drawn: tuple[jax.Array, jax.Array],
    spacing: float,
) -> list[jax.Array]:
    """Adds drawn words to those of leaves; returns the leaves in float32."""
    all_lows, all_highs = (
        jnp.concatenate([word.reshape(-1) for word in words]) + more
        for words, more in zip((lows, highs), drawn, strict=True)
    )
    # Once: every use of a leaf would have the CPU compiler compute it anew.
    noised = materialize(words_to_float(all_lows, all_highs, spacing))
    leaves, offset = [], 0
    for low in lows:
        leaves.append(noised[offset : offset + low.size].reshape(low.shape))
        offset += low.size
    return leaves


def normalize_by(constant: float) -> optax.GradientTransformation:
    """Divides updates by a constant: the *expected* batch size in DP-SGD.

    The actual size of a Poisson batch is private and must not be divided by.

    Args:
        constant: > 0 and finite.

    Returns:
        A stateless transform.
    """
    validate.real("The normalizing constant", constant, above=0.0)
    return optax.scale(1.0 / constant)
