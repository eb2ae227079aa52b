"""How gradients are measured, clipped and added up: exactly, or in float32.

Exactly wherever a clip norm bounds them. In float32 where there is none, which is
ordinary training through the same engines and protects nobody.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from dpdm_jax.fusion import materialize
from dpdm_jax.privacy.clipping.base import (
    ClippedSum,
    LossAndAux,
    PyTree,
    manual_axes,
    vary,
)
from dpdm_jax.privacy.exact import grid, norms, packing
from dpdm_jax.privacy.exact.grid import ExactSum, Grid

#: A sum as engines hold it: a float32 array or two words for each parameter.
Cells = list[Any]
#: The two words of a sum, see ``ExactSum``.
Words = tuple[jax.Array, jax.Array]
#: A sum as ``Arithmetic.join`` gives it.
Joined = Any
#: Picks the rows that are looked at, of an array with one entry an example.
Rows = Callable[[jax.Array], jax.Array]
#: ``factors(squares, roundings, rows) -> float32 [n]``: by what gradients of these
#: squared norms are multiplied; see ``Arithmetic.visit``.
Factors = Callable[[jax.Array, int, Rows], jax.Array]

# Gradients that are measured and added at once. On a CPU as many as ``add_integers``
# has a short way for; an accelerator starts few programs for many.
_CPU_TOGETHER, _TOGETHER = grid.SHORT, 256


class Arithmetic(Protocol):
    """Measures gradients and adds them up."""

    def zeros(self, params: PyTree) -> Cells:
        """Returns the sum of no gradients."""

    def result(self, total: Cells, treedef: Any) -> Any:
        """Returns a sum as callers of ``clipped_grad`` get it."""

    def cells(self, result: Any) -> Cells:
        """Undoes ``result``."""

    def join(self, total: Cells) -> Joined:
        """Returns a sum in the form in which gradients of all its leaves are added."""

    def split(self, joined: Joined, like: Cells) -> Cells:
        """Undoes ``join``, for leaves like these."""

    def visit(
        self,
        total: Joined,
        grads: Sequence[jax.Array],
        counts: jax.Array,
        factors: Factors,
    ) -> tuple[Joined, jax.Array, int]:
        """Measures gradients and adds them, times factors, to a sum.

        Args:
            total: the sum, joined.
            grads: [b, ...] arrays, a leaf each.
            counts: bool [b]; gradients where it is false may be passed over, and their
                norms be 0.
            factors: see ``Factors``; of 0 for a gradient that may hold anything.

        Returns:
            The sum; squared norms in units of the arithmetic's own, float32 [b]; by how
            many roundings these may be off.
        """

    def factors(
        self, squares: jax.Array, roundings: int, counts: jax.Array
    ) -> jax.Array:
        """Returns what clips gradients of these squared norms, float32 [b]."""

    def norms(self, squares: jax.Array) -> jax.Array:
        """Returns norms in the gradients' units, float32 [b]."""


#: ``engine(loss, params, batch, is_padding, arithmetic, total) -> ClippedSum``, where
#: ``batch`` is a tuple of arguments with leading axis b, and ``is_padding`` bool [b].
#: Some take their totals joined, see ``on_joined``.
Engine = Callable[
    [LossAndAux, PyTree, PyTree, jax.Array, Arithmetic, Cells], ClippedSum
]


class FloatArithmetic:
    """Float32 sums of gradients that nothing bounds; see ``Arithmetic``."""

    def zeros(self, params: PyTree) -> Cells:
        leaves = jax.tree.leaves(params)
        return [jnp.zeros(jnp.shape(x), jnp.float32) for x in leaves]

    def result(self, total: Cells, treedef: Any) -> PyTree:
        return treedef.unflatten(total)

    def cells(self, result: PyTree) -> Cells:
        return jax.tree.leaves(result)

    def join(self, total: Cells) -> Cells:
        return total

    def split(self, joined: Cells, like: Cells) -> Cells:
        del like
        return joined

    def visit(
        self,
        total: Cells,
        grads: Sequence[jax.Array],
        counts: jax.Array,
        factors: Factors,
    ) -> tuple[Cells, jax.Array, int]:
        leaves = [leaf.astype(jnp.float32) for leaf in grads]
        squares = sum(
            (jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim))) for leaf in leaves),
            start=jnp.zeros(len(counts), jnp.float32),
        )
        found = factors(squares, 0, lambda x: x)
        added = [
            leaf + jnp.sum(_times(found, rows), axis=0)
            for leaf, rows in zip(total, leaves, strict=True)
        ]
        return added, squares, 0

    def factors(
        self, squares: jax.Array, roundings: int, counts: jax.Array
    ) -> jax.Array:
        del roundings
        return jnp.where(counts & jnp.isfinite(squares), 1.0, 0.0)

    def norms(self, squares: jax.Array) -> jax.Array:
        return jnp.sqrt(squares)


class ExactArithmetic:
    """Sums of integers: no gradient moves one by more than the clip norm.

    See ``Arithmetic``; cells are (low, high), and units are those of ``norms``.
    """

    def __init__(self, l2_clip_norm: float):
        """Takes C, finite.

        Raises:
            InputError: there is no grid for it.
        """
        self.grid: Grid = grid.grid_of(l2_clip_norm)
        self._power = round(math.log2(self.grid.unit))

    def zeros(self, params: PyTree) -> Cells:
        def word(leaf: jax.Array) -> jax.Array:
            return jnp.zeros(jnp.shape(leaf), jnp.int32)

        return [(word(leaf), word(leaf)) for leaf in jax.tree.leaves(params)]

    def result(self, total: Cells, treedef: Any) -> ExactSum:
        return ExactSum(
            treedef.unflatten([low for low, _ in total]),
            treedef.unflatten([high for _, high in total]),
            self.grid.spacing,
        )

    def cells(self, result: ExactSum) -> Cells:
        pairs = zip(
            jax.tree.leaves(result.low), jax.tree.leaves(result.high), strict=True
        )
        return list(pairs)

    def join(self, total: Cells) -> list[Words]:
        """Words of each of ``packing.groups``, as vectors."""
        lows, highs = (packing.pack([words[i] for words in total]) for i in (0, 1))
        return list(zip(lows, highs, strict=True))

    def split(self, joined: list[Words], like: Cells) -> Cells:
        words = [grid.carry(*pair) for pair in joined]
        leaves = [low for low, _ in like]
        lows, highs = (packing.unpack([w[i] for w in words], leaves) for i in (0, 1))
        return list(zip(lows, highs, strict=True))

    def visit(
        self,
        total: list[Words],
        grads: Sequence[jax.Array],
        counts: jax.Array,
        factors: Factors,
    ) -> tuple[list[Words], jax.Array, int]:
        leaves = [leaf.astype(jnp.float32) for leaf in grads]
        parts = jax.vmap(packing.pack, axis_size=len(counts))(leaves)

        def measure(rows: Rows, zero: jax.Array) -> _Measured:
            vectors = [rows(part) for part in parts]
            # Not a constant: XLA turns (c x)^2 into c^2 x^2, which may vanish.
            scale = _power_of_two(zero - self._power)
            squares, roundings = norms.squared_norms([x * scale for x in vectors])
            return _Measured(
                squares,
                roundings,
                lambda found: [_times(found * scale, x) for x in vectors],
            )

        return _by_groups(total, counts, parts, measure, factors)

    def visit_outer(
        self,
        total: Words,
        x: jax.Array,
        y: jax.Array,
        counts: jax.Array,
        factors: Factors,
    ) -> tuple[Words, jax.Array, int]:
        """``visit`` of gradients that are outer products, a few of them at a time.

        Args:
            total: the two words of a matrix, int32 [m, n] each.
            x: float32 [b, m].
            y: float32 [b, n].
            counts: see ``visit``.
            factors: see ``visit``.
        """
        shape = total[0].shape
        (x, power_x), (y, power_y) = _mantissas(x), _mantissas(y)
        power = power_x + power_y - self._power

        def measure(rows: Rows, zero: jax.Array) -> _Measured:
            u, v = rows(x), rows(y)
            of_u, roundings_u = norms.squared_norms([u])
            of_v, roundings_v = norms.squared_norms([v])
            # The products' own power of two, in two steps: the squares may be infinite,
            # or vanish where all integers do.
            powers = rows(power) + zero
            half = _power_of_two(powers // 2)
            other = _power_of_two(powers - powers // 2)
            squares = of_u * of_v * half * half * other * other

            def products(found: jax.Array) -> list[jax.Array]:
                scale = jnp.where(found > 0, found * half * other, 0.0)
                matrices = _times(scale, u[:, :, None] * v[:, None, :])
                return [matrices.reshape(len(matrices), -1)]

            return _Measured(squares, roundings_u + roundings_v + 6, products)

        (words,), squares, roundings = _by_groups(
            [(total[0].reshape(-1), total[1].reshape(-1))],
            counts,
            [x, y],
            measure,
            factors,
        )
        low, high = (word.reshape(shape) for word in grid.carry(*words))
        return (low, high), squares, roundings

    def factors(
        self, squares: jax.Array, roundings: int, counts: jax.Array
    ) -> jax.Array:
        relative = self.grid.l2_clip_norm / self.grid.unit
        return norms.clip_factors(squares, counts, relative, roundings)

    def norms(self, squares: jax.Array) -> jax.Array:
        return jnp.sqrt(squares) * self.grid.unit


def arithmetic_of(l2_clip_norm: float) -> Arithmetic:
    """Returns the arithmetic for a clip norm, which may be infinite.

    Raises:
        InputError: there is no grid for it.
    """
    if math.isinf(l2_clip_norm):
        return FloatArithmetic()
    return ExactArithmetic(l2_clip_norm)


def on_joined(engine: Engine) -> Engine:
    """An engine of cells, of one that takes and returns joined sums."""

    def run(
        loss: LossAndAux,
        params: PyTree,
        batch: PyTree,
        is_padding: jax.Array,
        arithmetic: Arithmetic,
        total: Cells,
    ) -> ClippedSum:
        joined = arithmetic.join(total)
        result = engine(loss, params, batch, is_padding, arithmetic, joined)
        return result._replace(total=arithmetic.split(result.total, total))

    return run


class _Measured(NamedTuple):
    """A few gradients: squared norms [n], and what multiplies them by factors [n]."""

    squares: jax.Array
    roundings: int
    times: Callable[[jax.Array], list[jax.Array]]


def _by_groups(
    total: list[Words],
    counts: jax.Array,
    inputs: Sequence[jax.Array],
    measure: Callable[[Rows, jax.Array], _Measured],
    factors: Factors,
) -> tuple[list[Words], jax.Array, int]:
    """Measures, clips and adds up a few gradients at a time.

    The loop is what makes the vector that is added the one that was measured: its
    inputs are arrays in memory, whereas without it XLA works out a gradient once for
    the norm and once more for the sum, with other roundings (it has been seen to turn
    (c x) f into x (c f)). So its length must not be known when it is compiled: a loop
    of one turn would be undone. And nothing of a turn may be moved before the loop,
    where the gradients are worked out: all of it depends on the last turn, by a zero.
    """
    size = len(counts)
    if size == 0 or not inputs:
        return total, jnp.zeros((size,), jnp.float32), 0
    on_cpu = jax.default_backend() == "cpu"
    groups = -(-size // (_CPU_TOGETHER if on_cpu else _TOGETHER))
    width = -(-size // groups)
    roundings = 0

    def add_group(
        i: jax.Array, carry: tuple[list[Words], jax.Array, jax.Array]
    ) -> tuple[list[Words], jax.Array, jax.Array]:
        nonlocal roundings
        total, squares, zero = carry
        # The last group begins early enough to be full; its first rows are done then.
        start = jnp.minimum(i * width, size - width)
        is_new = start + jnp.arange(width) >= i * width
        rows = functools.partial(
            lax.dynamic_slice_in_dim, start_index=start, slice_size=width
        )
        found, roundings, times = measure(rows, zero)
        kept = jnp.where(is_new, factors(found, roundings, rows), 0.0)
        total = [
            grid.add_integers(*words, _to_grid(products))
            for words, products in zip(total, times(kept), strict=True)
        ]
        squares = lax.dynamic_update_slice_in_dim(squares, found, start, 0)
        return total, squares, zero & i

    used = jnp.max(jnp.where(counts, jnp.arange(1, size + 1), 0))
    squares = vary(jnp.zeros((size,), jnp.float32), manual_axes(counts))
    zero = _zero_at_run_time(inputs)
    total, squares, _ = lax.fori_loop(
        0, (used + width - 1) // width + zero, add_group, (total, squares, zero)
    )
    return total, squares, roundings


def _zero_at_run_time(inputs: Sequence[jax.Array]) -> jax.Array:
    """The int32 number 0, which compilers know only where all inputs are constants."""
    bits = jnp.int32(0)
    for x in inputs:
        if x.size:
            first = x[(0,) * x.ndim].astype(jnp.float32)
            bits ^= lax.bitcast_convert_type(first, jnp.int32)
    # Stored, or it would be worked out anew for every number that it is used for.
    return materialize(jnp.where((bits | 1) == 0, 1, 0))


def _times(factors: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows times factors; a row of factor 0 may hold anything."""
    factors = factors.reshape((-1,) + (1,) * (rows.ndim - 1))
    # where, not a product: 0 * nan is nan.
    return jnp.where(factors > 0, factors * rows, 0.0)


def _to_grid(x: jax.Array) -> jax.Array:
    """Grid steps, int32, of numbers in units of 2^28: towards 0, so none grows."""
    return (x * 2.0**grid.STEPS_BITS).astype(jnp.int32)


def _mantissas(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scales rows by powers of two so that the largest entry is between 1 and 2.

    Args:
        x: float32 [b, n].

    Returns:
        The scaled rows, and the powers that they are to be multiplied by, int32 [b].
        Subnormal numbers, which some processors take for 0, are 0. A row that is not
        finite stays so.
    """
    exponents = (lax.bitcast_convert_type(x, jnp.int32) >> 23) & 255
    x = jnp.where(exponents > 0, x, 0.0)
    power = jnp.max(exponents, axis=1, initial=1) - 127
    # In two steps: the reciprocal of a power of two may be subnormal.
    half = power // 2
    scaled = x * _power_of_two(-half)[:, None] * _power_of_two(half - power)[:, None]
    return scaled, power


def _power_of_two(power: jax.Array) -> jax.Array:
    """Float32 powers of two, of int32 exponents; those out of range at its ends."""
    exponents = jnp.clip(power, -126, 127) + 127
    return lax.bitcast_convert_type(exponents << 23, jnp.float32)
