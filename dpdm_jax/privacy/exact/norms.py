"""Norms of float32 vectors that are never measured too short.

A float32 sum of n squares is off by a factor of up to 1 +- n 2^-24, depending on an
order that the compiler chooses: for a million coordinates that is no bound. Here sums
are nested, none of more than ``_TERMS`` terms, so that the error is bounded by a few
hundred roundings whatever the order.

All vectors come in units in which the clip norm is between 1 and 2, where the grid's
step is 2^-28. An entry below the step becomes the integer 0 (its factor is at most 1),
so that it does not matter whether its square vanishes, or whether a processor takes a
subnormal number for 0; it would make the norm larger, never smaller. Squares of the
others are above 2^-56, far from underflow. A square that overflows makes the norm
infinite, and the example is left out.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Terms of a sum at most, whose order is anyone's.
_TERMS = 16
_ROUNDING = 2.0**-24
# What division and square root may be off by: eight units in the last place, each. On
# GPUs and TPUs they are not correctly rounded.
_DIVISION = 2.0**-21


def squared_norms(leaves: Sequence[jax.Array]) -> tuple[jax.Array, int]:
    """Squared L2 norms of rows, over all arrays together.

    Args:
        leaves: float32 [b, ...] each.

    Returns:
        Float32 [b], and by how many roundings it may be off.
    """
    partial = [_partial_sums(leaf.reshape(len(leaf), -1) ** 2) for leaf in leaves]
    total, roundings = nested_sum(jnp.concatenate(partial, axis=1))
    return total, 1 + (_TERMS - 1) + roundings  # the square, the partial sum


def nested_sum(terms: jax.Array) -> tuple[jax.Array, int]:
    """Sums of rows of numbers >= 0.

    Args:
        terms: float32 [b, n].

    Returns:
        Float32 [b], and by how many roundings it may be off.
    """
    roundings = 0
    while terms.shape[1] > _TERMS:
        terms = _partial_sums(_opaque(terms))
        roundings += _TERMS - 1
    return jnp.sum(_opaque(terms), axis=1), roundings + max(0, terms.shape[1] - 1)


def _partial_sums(terms: jax.Array) -> jax.Array:
    """Sums of up to ``_TERMS`` terms each, [b, n] -> [b, about n / 16]."""
    number, size = terms.shape
    width = size // _TERMS
    rest = jnp.sum(terms[:, width * _TERMS :], axis=1, keepdims=True)
    if not width:
        return rest
    whole = terms[:, : width * _TERMS].reshape(number, _TERMS, width)
    return jnp.concatenate([jnp.sum(whole, axis=1), rest], axis=1)


def _opaque(terms: jax.Array) -> jax.Array:
    """The same numbers >= 0, by an operation that compilers don't see through.

    They would join a sum of sums to one long sum.
    """
    bits = lax.bitcast_convert_type(terms, jnp.int32) & 0x7FFFFFFF
    return lax.bitcast_convert_type(bits, jnp.float32)


def limit(l2_clip_norm: float, roundings: int) -> float:
    """What measured norms are clipped to, for true ones to be at most the clip norm.

    A squared norm is measured as at least (1 - u)^k of the true one, for k roundings
    with u = 2^-24, and the norm as at least (1 - k u)(1 - d) of the true one, for a
    root that is off by d. The factor is at most (1 + d) limit / norm, and the product
    of factor and entry is rounded twice at most.

    Args:
        l2_clip_norm: C, in the units of the norms.
        roundings: of the squared norms.

    Returns:
        A float32 number.
    """
    below = l2_clip_norm * (1 - (roundings + 4) * _ROUNDING - 3 * _DIVISION)
    rounded = np.float32(below)
    if rounded > below:
        rounded = np.nextafter(rounded, np.float32(0))
    return float(rounded)


def clip_factors(
    squares: jax.Array, counts: jax.Array, l2_clip_norm: float, roundings: int
) -> jax.Array:
    """By what each vector is multiplied before the sum (Abadi et al. 2016, alg. 1).

    Args:
        squares: float32 [b], see ``squared_norms``.
        counts: bool [b]; false where an example adds nothing.
        l2_clip_norm: C, in the same units.
        roundings: of ``squares``.

    Returns:
        Float32 [b], in [0, 1]; 0 also where the norm is not finite.
    """
    norms = jnp.sqrt(squares)
    factors = jnp.minimum(1.0, limit(l2_clip_norm, roundings) / norms)
    return jnp.where(counts & jnp.isfinite(norms), factors, 0.0)


def clip_to_one(vectors: np.ndarray) -> np.ndarray:
    """Scales rows down to a norm of 1; those without one to 0. On the host.

    Args:
        vectors: float64 [n, d].

    Returns:
        Float64 [n, d], of true norms of at most 1, by a margin of 2^-48.
    """
    with np.errstate(all="ignore"):
        found = np.sqrt(np.sum(vectors**2, axis=1, keepdims=True))
        # Twice the bound on the error of a sum of d squares in any order. Squares that
        # vanish are of entries far below the grid's step.
        below = 1 - (vectors.shape[1] + 32) * 2.0**-52
        clipped = vectors * np.minimum(1.0, below / found)
    return np.where(np.isfinite(found), clipped, 0.0)
