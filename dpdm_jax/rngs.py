"""Named streams of public randomness, so that none depends on how much others drew.

Initial weights and sampling need no secrecy. What a private run draws for its steps
does (see ``secrets``), and never comes from here.
"""

import zlib

import jax


def stream(seed: int | jax.Array, name: str, *indices: int | jax.Array) -> jax.Array:
    """Returns the key of a named stream at a position.

    Args:
        seed: ``config.seed``, or uint32 in a program.
        name: what the stream is for, such as "init".
        *indices: position in the stream; folded in one after another.

    Returns:
        A typed PRNG key.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
