"""Uniform draws from a secret seed, by what they are for."""

import hashlib

import numpy as np
from jaxtyping import UInt64


def draws(
    domain: bytes, seed: bytes, first: int, second: int, count: int
) -> UInt64[np.ndarray, " n"]:
    """Draws 64-bit integers by SHAKE-256, uniform to whoever lacks the seed.

    Args:
        domain: what they are for; other uses have other ones.
        seed: secret.
        first: which draws of this use, >= 0.
        second: likewise, >= 0.
        count: n.

    Returns:
        The integers, a function of all of these; more of them begin with fewer.
    """
    # Lengths come first, so that no two inputs give the same bytes.
    key = b"".join(
        (
            len(domain).to_bytes(8, "little"),
            domain,
            len(seed).to_bytes(8, "little"),
            seed,
            first.to_bytes(8, "little"),
            second.to_bytes(8, "little"),
        )
    )
    return np.frombuffer(hashlib.shake_256(key).digest(8 * count), "<u8")
