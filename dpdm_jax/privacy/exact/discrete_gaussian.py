"""Discrete Gaussian noise of any standard deviation, drawn with integers alone.

A draw of standard deviation S (about 2^28 and more) is put together from a few draws of
a small one, x1 + k x2 + k^2 x3 (Micciancio and Walter 2017, arXiv/ePrint 2017/259); a
small draw is one look into a table (Walker's alias method) by 128 bits. What that
leaves to account for, far below any delta, is in ``bounds``.
"""

import dataclasses
import decimal
import functools
import math
from collections.abc import Callable

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dpdm_jax.errors import InputError
from dpdm_jax.privacy.exact.grid import multiply_add

#: The least ratio of a small draw's standard deviation to sqrt(1 + k^2): what makes the
#: combination a discrete Gaussian, see ``bounds.convolution_error``.
MIN_SMOOTHING = 2.0
#: Bits that a small draw is made of.
DRAW_BITS = 128
#: Standard deviations, in grid steps, that can be drawn. Below there is no difference
#: between noise and none; above, the noise would leave the words of a sum.
MIN_STDDEV, MAX_STDDEV = 16.0, 2.0**46

#: Numbers that a draw gives at most: each is drawn by its position, a word of 32 bits.
MAX_SIZE = 2**32

# A table has at most so many cells; where small draws would need more, one more of them
# is combined.
_MAX_CELL_BITS = 17
# Digits that probabilities are computed with: 2^-256 is 1e-77.
_FRACTION_BITS = 256
# Coordinates that are drawn at once, on a CPU and elsewhere.
_CPU_BLOCK, _BLOCK = 2**14, 2**22


@dataclasses.dataclass(frozen=True)
class Combination:
    """How small draws make a large one: the sum of ``factor**i`` times the i-th.

    Attributes:
        stddev: of a small draw, sigma_0.
        factor: k.
        terms: how many are combined.
    """

    stddev: float
    factor: int
    terms: int

    @property
    def total_stddev(self) -> float:
        """Of the combination."""
        powers = sum(self.factor ** (2 * i) for i in range(self.terms))
        return self.stddev * math.sqrt(powers)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """An alias table: each of n = 2^cell_bits cells is drawn with equal probability.

    A cell j gives its own value, j - n / 2, with probability thresholds[j] /
    2^threshold_bits, and else its other value.

    Attributes:
        cell_bits: log2 of n.
        thresholds: n integers, 0 to 2^threshold_bits.
        others: int [n], the other value's cell.
    """

    cell_bits: int
    thresholds: tuple[int, ...]
    others: np.ndarray

    @property
    def threshold_bits(self) -> int:
        """Bits of a threshold: what a draw has beside its cell."""
        return DRAW_BITS - self.cell_bits


@functools.lru_cache(maxsize=64)
def combination_of(stddev: float) -> Combination:
    """Returns small draws that make a discrete Gaussian at least so wide.

    Args:
        stddev: S, ``MIN_STDDEV`` to ``MAX_STDDEV``.

    Raises:
        InputError: S is out of range.
    """
    if not MIN_STDDEV <= stddev <= MAX_STDDEV:
        raise InputError(
            f"the noise is {stddev:g} grid steps wide; allowed: 2^4 to 2^46, which is "
            "about 2^-24 to 2^17 times the clip norm."
        )
    terms = 1
    while True:
        factor = _factor_of(stddev, terms)
        powers = sum(factor ** (2 * i) for i in range(terms))
        small = stddev / math.sqrt(powers)
        if _cell_bits(small) <= _MAX_CELL_BITS:
            break
        terms += 1
    combination = Combination(small, factor, terms)
    while combination.total_stddev < stddev:  # never less noise, by rounding
        small = math.nextafter(small, math.inf)
        combination = Combination(small, factor, terms)
    return combination


def _factor_of(stddev: float, terms: int) -> int:
    """Returns the largest k that leaves small draws wide enough."""
    if terms == 1:
        return 0

    def fits(factor: int) -> bool:
        powers = sum(factor ** (2 * i) for i in range(terms))
        return stddev >= MIN_SMOOTHING * math.sqrt(powers * (1 + factor**2))

    low, high = 0, 2
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _reach(stddev: float) -> int:
    """Returns the largest value of a table: the rest is below 2^-DRAW_BITS."""
    return math.ceil(13.5 * stddev) + 1


def _cell_bits(stddev: float) -> int:
    return (2 * _reach(stddev) + 1).bit_length()


def weights(stddev: float) -> list[int]:
    """Returns exp(-x^2 / (2 stddev^2)) for x = 0 to the table's reach.

    Args:
        stddev: sigma_0 > 0; the float's own value is taken.

    Returns:
        Integers in units of 2^-256, each off by less than 2^-200.
    """
    with decimal.localcontext() as context:
        context.prec = 120
        variance = decimal.Decimal(stddev) ** 2
        one = 1 << _FRACTION_BITS
        first = int((-1 / (2 * variance)).exp() * one)
        step = int((-1 / variance).exp() * one)
    found, ratio = [one], first
    for _ in range(_reach(stddev)):
        found.append(found[-1] * ratio >> _FRACTION_BITS)
        ratio = ratio * step >> _FRACTION_BITS
    return found


@functools.lru_cache(maxsize=16)
def table_of(stddev: float) -> Table:
    """Returns the table of a discrete Gaussian.

    Args:
        stddev: sigma_0, of ``Combination``.

    Returns:
        A table that gives each value within reach a probability that is off by less
        than 2^-128, but for that of 0, which takes up what all others leave.
    """
    cell_bits = _cell_bits(stddev)
    cells = 1 << cell_bits
    whole = 1 << (DRAW_BITS - cell_bits)  # a cell, in units of 2^-128
    half = weights(stddev)
    total = 2 * sum(half) - half[0]
    # In units of 2^-128, rounded down.
    masses = [(w << DRAW_BITS) // total for w in half]
    values = [0] * cells
    for x, mass in enumerate(masses):
        values[cells // 2 + x] = values[cells // 2 - x] = mass
    values[cells // 2] += (1 << DRAW_BITS) - sum(values)
    # Walker 1977, with Vose's two lists: cells that lack something, and that have more.
    others = np.arange(cells)
    poor = [j for j, mass in enumerate(values) if mass < whole]
    rich = [j for j, mass in enumerate(values) if mass > whole]
    thresholds = [whole] * cells
    while poor:
        j, giver = poor.pop(), rich[-1]
        thresholds[j], others[j] = values[j], giver
        values[giver] -= whole - values[j]
        if values[giver] <= whole:
            rich.pop()
            if values[giver] < whole:
                poor.append(giver)
    return Table(cell_bits, tuple(thresholds), others)


@dataclasses.dataclass(frozen=True, eq=False)
class _Words:
    """A table as a processor reads it.

    A draw's first 32 bits and the next 32 make the cell (``cell_bits``), 32 bits that
    are compared with ``first``, and the rest, which are compared with the low bits of
    ``second``, whose high bits are the other cell. Nearly always that decides; else the
    last 64 bits are compared with ``third`` and ``fourth``.
    """

    cell_bits: int
    first: np.ndarray
    second: np.ndarray
    third: np.ndarray
    fourth: np.ndarray


@functools.lru_cache(maxsize=16)
def _words_of(stddev: float) -> _Words:
    table = table_of(stddev)
    rest_bits = 32 - table.cell_bits
    # A threshold of a whole cell is one that has no other value.
    last = (1 << table.threshold_bits) - 1
    fields: list[list[int]] = [[], [], [], []]
    for cell, (threshold, other) in enumerate(
        zip(table.thresholds, table.others.tolist(), strict=True)
    ):
        if threshold > last:
            threshold, other = last, cell
        fields[0].append(threshold >> (64 + rest_bits))
        rest = (threshold >> 64) & ((1 << rest_bits) - 1)
        fields[1].append(other << rest_bits | rest)
        fields[2].append((threshold >> 32) & 0xFFFFFFFF)
        fields[3].append(threshold & 0xFFFFFFFF)
    return _Words(table.cell_bits, *(np.array(f, np.uint32) for f in fields))


def draw(
    keys: jax.Array, size: int, stddev: float, sharding: NamedSharding | None = None
) -> tuple[jax.Array, jax.Array]:
    """Draws independent discrete Gaussians of mean 0.

    Args:
        keys: typed threefry keys [n], secret and used for nothing else. Their streams
            are combined by exclusive-or.
        size: how many, at most ``MAX_SIZE``.
        stddev: S in grid steps, ``MIN_STDDEV`` to ``MAX_STDDEV``.
        sharding: of a vector: under ``jit`` each device draws its part, and the parts
            are gathered. It is the same noise.

    Returns:
        Words of ``size`` integers, see ``ExactSum``: low and high, int32 [size] each.

    Raises:
        InputError: S is out of range.
    """
    return _draw(jax.random.key_data(keys), size, stddev, sharding)


# Compiled once for each size, also for who draws outside of jit.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _draw(
    key_data: jax.Array, size: int, stddev: float, sharding: NamedSharding | None
) -> tuple[jax.Array, jax.Array]:
    parts = 1 if sharding is None else sharding.num_devices
    block = _block(size, parts)
    blocks = -(-size // (block * parts))

    def draw_part(key_data: jax.Array, part: jax.Array) -> jax.Array:
        def positions_of(i: jax.Array) -> jax.Array:
            start = jnp.uint32(part * blocks + i) * jnp.uint32(block)
            return start + jnp.arange(block, dtype=jnp.uint32)

        return _in_blocks(
            key_data, positions_of, jnp.arange(blocks, dtype=jnp.uint32), stddev
        )

    if sharding is None:
        drawn = draw_part(key_data, jnp.uint32(0))
    else:
        (axis,) = sharding.spec
        drawn = jax.shard_map(
            lambda data: draw_part(data, lax.axis_index(axis).astype(jnp.uint32)),
            mesh=sharding.mesh,
            in_specs=P(),
            out_specs=P(None, axis),
            check_vma=False,
        )(key_data)
        everywhere = NamedSharding(sharding.mesh, P())
        drawn = lax.with_sharding_constraint(drawn, everywhere)
    return drawn[0, :size], drawn[1, :size]


def draw_at(
    keys: jax.Array, positions: jax.Array, stddev: float
) -> tuple[jax.Array, jax.Array]:
    """Returns some of the integers that ``draw`` would give.

    Args:
        keys: see ``draw``.
        positions: of the integers, uint32 [n]. Any number; each is drawn by itself.
        stddev: see ``draw``.

    Returns:
        Words, see ``draw``: low and high, int32 [n] each.

    Raises:
        InputError: S is out of range.
    """
    size = positions.size
    block = _block(size, 1)
    rows = jnp.pad(positions, (0, -size % block)).reshape(-1, block)
    drawn = _in_blocks(jax.random.key_data(keys), lambda row: row, rows, stddev)
    return drawn[0, :size], drawn[1, :size]


def _block(size: int, parts: int) -> int:
    """How many coordinates a device draws at once.

    At least two blocks a device: what a loop gives is in memory, so that nothing that
    reads it draws anew.
    """
    most = _CPU_BLOCK if jax.default_backend() == "cpu" else _BLOCK
    return max(1, min(most, -(-size // (2 * parts))))


def _in_blocks(
    key_data: jax.Array,
    positions_of: Callable[[jax.Array], jax.Array],
    blocks: jax.Array,
    stddev: float,
) -> jax.Array:
    """Returns words [2, blocks x block], drawn block by block."""
    combination = combination_of(stddev)
    words = _words_of(combination.stddev)

    def draw_block(which: jax.Array) -> jax.Array:
        return jnp.stack(_combined(key_data, positions_of(which), combination, words))

    return lax.map(draw_block, blocks).transpose(1, 0, 2).reshape(2, -1)


def _combined(
    key_data: jax.Array,
    positions: jax.Array,
    combination: Combination,
    words: _Words,
) -> tuple[jax.Array, jax.Array]:
    """Returns the words of draws at some positions, uint32 [n]."""
    half = 1 << (words.cell_bits - 1)

    def add_term(
        i: jax.Array, sums: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        cells = _cells(key_data, positions, combination.terms - 1 - i, words)
        small = cells.astype(jnp.int32) - half
        return multiply_add(combination.factor, *sums, small)

    # A loop, for it to be compiled once.
    nothing = jnp.zeros_like(positions, jnp.int32)
    return lax.fori_loop(0, combination.terms, add_term, (nothing, nothing))


def _cells(
    key_data: jax.Array, positions: jax.Array, term: jax.Array, words: _Words
) -> jax.Array:
    """Returns the cells, uint32 [n], that small draws come out at."""
    one, two = _bits(key_data, positions, 2 * term)
    rest_bits = 32 - words.cell_bits
    cell = one >> rest_bits
    first = one << words.cell_bits | two >> rest_bits
    rest = two & ((1 << rest_bits) - 1)
    limit, packed = _at(words.first, cell), _at(words.second, cell)
    limit_rest, other = packed & ((1 << rest_bits) - 1), packed >> rest_bits
    tied = (first == limit) & (rest == limit_rest)
    is_below = (first < limit) | ((first == limit) & (rest < limit_rest))

    def by_the_last_bits() -> jax.Array:
        three, four = _bits(key_data, positions, 2 * term + 1)
        third, fourth = _at(words.third, cell), _at(words.fourth, cell)
        return is_below | (
            tied & ((three < third) | ((three == third) & (four < fourth)))
        )

    is_below = lax.cond(jnp.any(tied), by_the_last_bits, lambda: is_below)
    return jnp.where(is_below, cell, other)


def _at(table: np.ndarray, cells: jax.Array) -> jax.Array:
    return jnp.asarray(table).at[cells].get(mode="promise_in_bounds")


def _bits(
    key_data: jax.Array, positions: jax.Array, stream: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns 64 random bits a position: threefry in counter mode, two uint32 [n]."""
    shape = (len(key_data), len(positions))
    key_one, key_two = (jnp.broadcast_to(k[:, None], shape) for k in key_data.T)
    streams = jnp.broadcast_to(stream.astype(jnp.uint32), shape)
    counters = jnp.broadcast_to(positions, shape)
    high, low = jax.extend.random.threefry2x32_p.bind(
        key_one, key_two, streams, counters
    )
    return _exclusive_or(high), _exclusive_or(low)


def _exclusive_or(rows: jax.Array) -> jax.Array:
    return functools.reduce(jnp.bitwise_xor, list(rows))
