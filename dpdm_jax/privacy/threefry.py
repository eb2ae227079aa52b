"""Typed PRNG keys of 128 bits: Threefry-4x32 with 20 rounds.

JAX's usual keys have 64 bits, and so have all that follow from one by ``fold_in`` or
``split``: 2^64 trials find such a key, whatever it was made of. The keys of two streams
combined by exclusive-or are found in as many trials, with a table of as many entries.
Keys of 128 bits cost no more: a block of four words is the work of two blocks of two.

JAX has a Threefry-4x32 of its own, which makes one word of each block, and whose
programs take XLA minutes to compile for CPUs.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
2011.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl
from jax.typing import ArrayLike
from jaxtyping import Array, Key

from dpdm_jax.errors import InputError

KEY_BYTES = 16
_WORDS = 4
# Of the two pairs of words, in each of eight rounds.
_ROTATIONS = np.array(
    [[10, 26], [11, 21], [13, 27], [23, 5], [6, 20], [17, 11], [25, 10], [18, 20]],
    np.uint32,
)
_ROUNDS_OF_A_GROUP = 4
_GROUPS = 5
_PARITY = np.uint32(0x1BD11BDA)

# The last word of the counter: what is made for one purpose is never made for another.
_BITS, _SPLIT, _FOLD_IN = 0, 1, 2


def secret_key(secret: bytes) -> Key[Array, ""]:
    """Makes a typed PRNG key for all of ``jax.random``.

    Args:
        secret: 16 bytes.

    Returns:
        The key. Those that follow by ``fold_in`` and ``split`` have 128 bits, too.

    Raises:
        InputError: there are fewer bytes, or more.
    """
    if len(secret) != KEY_BYTES:
        raise InputError(
            f"the secret of a PRNG key has {len(secret)} bytes; allowed: {KEY_BYTES}."
        )
    words = jnp.asarray(np.frombuffer(secret, "<u4"))
    return jax.random.wrap_key_data(words, impl=_THREEFRY_4X32)


@jax.jit  # keeps what was traced
def block(key: jax.Array, counter: Sequence[ArrayLike]) -> list[jax.Array]:
    """Enciphers counters.

    Args:
        key: uint32 [4].
        counter: four words, uint32, of shapes that broadcast.

    Returns:
        Four words, uint32, of the shape that they broadcast to.
    """
    shape = jnp.broadcast_shapes(*(jnp.shape(word) for word in counter))
    words = [jnp.broadcast_to(jnp.asarray(w, jnp.uint32), shape) for w in counter]
    # A loop keeps XLA for CPUs from computing what a round uses twice 2^20 times over;
    # others make one kernel of all rounds, which needs no memory between them.
    return jax.lax.platform_dependent(key, words, cpu=_in_a_loop, default=_at_once)


def _in_a_loop(key: jax.Array, words: list[jax.Array]) -> list[jax.Array]:
    schedule = _schedule(key)
    words = _add(words, schedule)

    def group(
        number: jax.Array, state: tuple[list[jax.Array], list[jax.Array], jax.Array]
    ) -> tuple[list[jax.Array], list[jax.Array], jax.Array]:
        words, schedule, rotations = state
        words = _mix(words, rotations[:_ROUNDS_OF_A_GROUP])
        schedule = [*schedule[1:], schedule[0]]
        words = _add(words, schedule, jnp.uint32(number + 1))
        return words, schedule, jnp.roll(rotations, _ROUNDS_OF_A_GROUP, axis=0)

    state = (words, schedule, jnp.asarray(_ROTATIONS))
    return jax.lax.fori_loop(0, _GROUPS, group, state)[0]


def _at_once(key: jax.Array, words: list[jax.Array]) -> list[jax.Array]:
    schedule = _schedule(key)
    words = _add(words, schedule)
    rotations = _ROTATIONS
    for number in range(_GROUPS):
        words = _mix(words, rotations[:_ROUNDS_OF_A_GROUP])
        schedule = [*schedule[1:], schedule[0]]
        words = _add(words, schedule, np.uint32(number + 1))
        rotations = np.roll(rotations, _ROUNDS_OF_A_GROUP, axis=0)
    return words


def _schedule(key: jax.Array) -> list[jax.Array]:
    words = [key[i] for i in range(_WORDS)]
    return [*words, words[0] ^ words[1] ^ words[2] ^ words[3] ^ _PARITY]


def _add(
    words: list[jax.Array],
    schedule: list[jax.Array],
    number: jax.Array | np.uint32 | None = None,
) -> list[jax.Array]:
    added = [x + k for x, k in zip(words, schedule[:_WORDS], strict=True)]
    if number is not None:
        added[-1] += number
    return added


def _mix(words: list[jax.Array], rotations: jax.Array | np.ndarray) -> list[jax.Array]:
    """Four rounds."""
    first, second, third, fourth = words
    for i in range(_ROUNDS_OF_A_GROUP):
        left, right = rotations[i, 0], rotations[i, 1]
        first += second
        second = _rotated(second, left) ^ first
        third += fourth
        fourth = _rotated(fourth, right) ^ third
        second, fourth = fourth, second
    return [first, second, third, fourth]


def _rotated(word: jax.Array, by: jax.Array | np.uint32) -> jax.Array:
    return (word << by) | (word >> (np.uint32(32) - by))


def _seed(seed: jax.Array) -> jax.Array:
    raise InputError(
        "a 128-bit PRNG key is made of a seed, which has fewer bits; allowed: "
        "secret_key() of 16 secret bytes."
    )


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    numbers = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    made = block(key, (numbers, 0, 0, _SPLIT))
    return jnp.stack(made, axis=-1).reshape(*shape, _WORDS)


def _fold_in(key: jax.Array, number: ArrayLike) -> jax.Array:
    return jnp.stack(block(key, (number, 0, 0, _FOLD_IN)))


def _random_bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    size = math.prod(shape)
    dtype = jnp.dtype(f"uint{width}")
    if width == 64:
        low, high = _random_bits(key, 32, (2, size)).astype(dtype)
        return (low | high << dtype.type(32)).reshape(shape)
    blocks = -(-size // _WORDS)
    if blocks > 2**32:
        raise InputError(f"{size} draws of one PRNG key; allowed: up to {2**34}.")
    numbers = jnp.arange(blocks, dtype=jnp.uint32)
    words = jnp.concatenate(block(key, (numbers, 0, 0, _BITS)))
    return words[:size].reshape(shape).astype(dtype)


_THREEFRY_4X32 = define_prng_impl(
    key_shape=(_WORDS,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="dpdm_jax_threefry4x32",
    tag="tf4",
)
