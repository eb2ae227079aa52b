"""Sums of vectors as integers: of grid steps, in two words of 32 bits a coordinate.

Adding floating-point numbers rounds, so that one vector can move a sum by more than its
own length. Integers add up exactly, whatever the order, the micro-batches, the devices.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax.errors import InputError
from dpdm_jax.fusion import materialize

PyTree = Any

#: A vector of the clip norm is as long as 2^28 to 2^29 grid steps.
STEPS_BITS = 28
#: Bits of the low word; the high one has the rest and the sign.
LOW_BITS = 20
_LOW = 2**LOW_BITS - 1
#: So many integers below 2^29 in size add up to a low word within 32 bits.
SHORT = 3
#: The clip norms for which the grid, and the products of factors (2^-64 to 1) with its
#: unit, are ordinary float32 numbers, in whatever order a compiler multiplies.
MIN_CLIP_NORM, MAX_CLIP_NORM = 2.0**-60, 2.0**60


@dataclasses.dataclass(frozen=True)
class Grid:
    """The multiples of a power of two.

    Attributes:
        l2_clip_norm: C, bound on the L2 norm of a vector.
        unit: the largest power of two that is at most C.
        spacing: g, the grid's step; ``unit / 2**28``.
    """

    l2_clip_norm: float
    unit: float
    spacing: float


def grid_of(l2_clip_norm: float) -> Grid:
    """Returns the grid for vectors of a clip norm; it depends on nothing else.

    Args:
        l2_clip_norm: C, 2^-60 to 2^60.

    Raises:
        InputError: C is out of range.
    """
    if not MIN_CLIP_NORM <= l2_clip_norm <= MAX_CLIP_NORM:
        raise InputError(
            f"l2_clip_norm is {l2_clip_norm!r}; allowed: 2^-60 to 2^60, or infinity, "
            "which clips nothing."
        )
    unit = 2.0 ** (math.frexp(l2_clip_norm)[1] - 1)
    return Grid(float(l2_clip_norm), unit, unit * 2.0**-STEPS_BITS)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExactSum:
    """A sum of clipped vectors, without rounding. Private until noise is added.

    The integer of a coordinate is ``high * 2**20 + low``; times ``spacing`` it is the
    coordinate. Sums are added by ``+``. Words may be added by themselves, too (as
    ``jax.tree.map(jnp.add, ...)`` and all-reduces do), up to 2,048 times. A coordinate
    has room for four million vectors of the clip norm; beyond, it would wrap around,
    which takes the sum's use and nothing from the guarantee.

    Attributes:
        low: pytree like the parameters, int32; 0 to 2^20 - 1 where ``normalized``.
        high: the same, int32.
        spacing: of the grid, > 0.
    """

    low: PyTree
    high: PyTree
    spacing: float = dataclasses.field(metadata={"static": True})

    def __add__(self, other: "ExactSum") -> "ExactSum":
        if not isinstance(other, ExactSum):
            return NotImplemented
        other.check_spacing(self.spacing)
        return jax.tree.map(jnp.add, self, other).normalized()

    def check_spacing(self, spacing: float) -> None:
        """Raises InputError unless the sum is one on a grid of this step."""
        if self.spacing != spacing:
            raise InputError(
                f"a sum on the grid of {self.spacing!r} is added to one on that of "
                f"{spacing!r}; allowed: sums of one clip norm."
            )

    def normalized(self) -> "ExactSum":
        """Returns the same sum with low words that are below 2^20 and not negative."""
        pairs = jax.tree.map(carry, self.low, self.high)
        return _unzipped(self.low, pairs, self.spacing)

    def to_float(self) -> PyTree:
        """Returns float32 leaves, rounded: to look at. Noise is added to the sum."""
        return jax.tree.map(
            lambda low, high: words_to_float(low, high, self.spacing),
            self.low,
            self.high,
        )


def carry(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Moves what is above 20 bits from the low word to the high one; int32 both."""
    # The high word first, and stored: each new word then takes the old one's place.
    high, low = materialize((high + (low >> LOW_BITS), low))
    return low & _LOW, high


def add_integers(
    low: jax.Array, high: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Adds int32 integers below 2^29 in size, up to 2,000 rows of them, to words.

    What the low word has above 20 bits is carried when the next integers come, so that
    ``carry`` is due at the end. Up to ``SHORT`` rows only one of the new words depends
    on the integers: however a compiler rounds what they are worked out of, and however
    often, the words are those of one number.

    Args:
        low: int32 [n].
        high: int32 [n].
        rows: int32 [b, n].
    """
    low, high = carry(low, high)
    if len(rows) > SHORT:
        high = high + jnp.sum(rows >> LOW_BITS, axis=0, dtype=jnp.int32)
        rows = rows & _LOW
    return low + jnp.sum(rows, axis=0, dtype=jnp.int32), high


def multiply_add(
    factor: int, low: jax.Array, high: jax.Array, integers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the words of a factor times a number plus another number.

    Args:
        factor: 0 to 2^13.
        low: int32, 0 to 2^20 - 1.
        high: int32; its product with the factor fits into int32.
        integers: int32, below 2^30 in size.
    """
    # In halves of 10 bits: their products with the factor have at most 23.
    first = factor * (low & 1023) + integers
    second = factor * (low >> 10) + (first >> 10)
    return (first & 1023) | ((second & 1023) << 10), factor * high + (second >> 10)


def words_to_float(low: jax.Array, high: jax.Array, spacing: float) -> jax.Array:
    """Returns the numbers in float32, rounded in the last bits."""
    low, high = carry(low, high)
    # Each product of powers of two is exact, so there is one rounding but for that of
    # the high word's conversion. In one multiplication a wide word may leave float32.
    upper = high.astype(jnp.float32) * (spacing * 2.0**LOW_BITS)
    return upper + low.astype(jnp.float32) * spacing


def from_integers(integers: PyTree, spacing: float) -> ExactSum:
    """Returns the sum that host integers are.

    Args:
        integers: pytree of NumPy int64 arrays, below 2^51 in size.
        spacing: of the grid.
    """
    return ExactSum(
        jax.tree.map(lambda x: jnp.asarray(x & _LOW, jnp.int32), integers),
        jax.tree.map(lambda x: jnp.asarray(x >> LOW_BITS, jnp.int32), integers),
        spacing,
    )


def to_integers(total: ExactSum) -> PyTree:
    """Returns a sum as NumPy int64 arrays."""
    return jax.tree.map(
        lambda low, high: (
            (np.asarray(high, np.int64) << LOW_BITS) + np.asarray(low, np.int64)
        ),
        total.low,
        total.high,
    )


def _unzipped(like: PyTree, pairs: PyTree, spacing: float) -> ExactSum:
    low, high = jax.tree.transpose(
        jax.tree.structure(like), jax.tree.structure((0, 0)), pairs
    )
    return ExactSum(low, high, spacing)
