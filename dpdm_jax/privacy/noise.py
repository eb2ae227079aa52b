"""Gaussian noise and normalization of the clipped sum, as optax transforms."""

import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize


class GaussianNoiseState(NamedTuple):
    """State of ``gaussian_noise``. Secret: whoever holds the key can remove the noise.

    Attributes:
        key: typed PRNG keys, [n]; the noise is a function of all of them and ``count``.
        count: int32 [], updates so far.
    """

    key: jax.Array
    count: jax.Array


def new_noise_key() -> jax.Array:
    """Draws a 128-bit noise key from the operating system's entropy.

    Returns:
        Two independent threefry keys, [2], for ``gaussian_noise``.
    """
    words = jnp.frombuffer(os.urandom(16), jnp.uint32).reshape(2, 2)
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def gaussian_noise(
    stddev: float, key: jax.Array, *, sharding: NamedSharding | None = None
) -> optax.GradientTransformation:
    """Adds fresh independent Gaussian noise to every coordinate of every update.

    The n-th update's noise depends on the key and n alone, so a run that is restored
    from its state repeats the noise it had used, and never releases a second draw for
    the same step.

    Args:
        stddev: standard deviation >= 0; for DP-SGD noise multiplier times sensitivity.
        key: typed PRNG key, [] or [n]. JAX's threefry keys have 64 bits; streams of
            several keys are combined by exclusive-or, so that n keys have 64 n. Take it
            from ``new_noise_key()``, and never from a published seed.
        sharding: of a vector: under ``jit`` each device draws its part, and the parts
            are gathered. None draws all noise on every device. It is the same noise.

    Returns:
        The transform; its state holds the key.

    Raises:
        InputError: stddev is negative or not finite, or key is not a typed key.
    """
    validate.real("The standard deviation of the noise", stddev, minimum=0.0)
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise InputError(
            f"The noise key is a {type(key).__name__}; allowed: typed PRNG keys, as "
            "privacy.new_noise_key() makes them."
        )

    def init_fn(params: Any) -> GaussianNoiseState:
        del params  # the noise has the shape of the updates
        return GaussianNoiseState(key=key.reshape(-1), count=jnp.zeros((), jnp.int32))

    def update_fn(
        updates: Any, state: GaussianNoiseState, params: Any = None
    ) -> tuple[Any, GaussianNoiseState]:
        del params
        # Each key is folded with its position: two equal ones would cancel otherwise.
        keys = jax.vmap(jax.random.fold_in)(state.key, jnp.arange(state.key.size))
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, state.count)
        next_state = GaussianNoiseState(state.key, optax.safe_increment(state.count))
        if stddev == 0:
            return updates, next_state
        leaves, treedef = jax.tree.flatten(updates)
        # One draw for all leaves: every separate draw is compiled apart, which takes
        # XLA tens of seconds for a network of a few hundred leaves.
        flat = stddev * _standard_normal(
            step_keys, sum(leaf.size for leaf in leaves), sharding
        )
        # XLA would otherwise draw anew for every leaf, and compile twice as long.
        flat = materialize(jax.lax.optimization_barrier(flat))
        noisy, offset = [], 0
        for leaf in leaves:
            noise = flat[offset : offset + leaf.size].reshape(leaf.shape)
            noisy.append((leaf + noise).astype(leaf.dtype))
            offset += leaf.size
        return treedef.unflatten(noisy), next_state

    return optax.GradientTransformation(init_fn, update_fn)


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


def _standard_normal(
    keys: jax.Array, size: int, sharding: NamedSharding | None
) -> jax.Array:
    """Standard normal float32 [size] from the exclusive-or of the keys' bit streams."""
    # Filled up to divide evenly; a stream does not depend on where it is cut.
    parts = 1 if sharding is None else sharding.num_devices
    count = -(-size // parts) * parts

    def bits_of(key: jax.Array, word: int) -> jax.Array:
        bits = jax.random.bits(jax.random.fold_in(key, word), (count,), jnp.uint32)
        if sharding is None:
            return bits
        return jax.lax.with_sharding_constraint(bits, sharding)

    high, low = (
        functools.reduce(jnp.bitwise_xor, [bits_of(key, word) for key in keys])
        for word in range(2)
    )
    # One bit for the sign and 63 for the tail probability: small probabilities keep
    # their precision in float32, so that the tails are dense and reach 9.15 standard
    # deviations. With 32 bits they ended at 6.34, which among the 10^10 draws of a
    # long training costs more delta than there is.
    rest = (low.astype(jnp.float32) + 0.5) * 2.0**-32
    tail = ((high >> 1).astype(jnp.float32) + rest) * 2.0**-32
    magnitude = -jax.scipy.special.ndtri(tail)
    normal = jnp.where(high & 1, magnitude, -magnitude)
    if sharding is not None:
        normal = jax.lax.with_sharding_constraint(normal, sharding)
        everywhere = NamedSharding(sharding.mesh, P())
        normal = jax.lax.with_sharding_constraint(normal, everywhere)
    return normal[:size]
