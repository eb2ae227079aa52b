"""Which images of a sampled group enter a step: a secret draw without replacement.

It is no part of the amplification by sampling, which is that of groups: a group's
vector is clipped whichever of its images it is made of. It is drawn from the batches'
secret seed, by step and group, so that a step that is taken again sees the same images,
and so that no group's draw depends on another's images.
"""

import hashlib

import numpy as np
from jaxtyping import Int64

_DOMAIN = b"dpdm_jax.privacy.group_selection.1"


def choose(
    seed: bytes, step: int, group: int, size: int, count: int
) -> Int64[np.ndarray, " n"]:
    """Chooses some of a group's images, uniformly without replacement.

        >>> known = bytes(16)  # protects nobody; privacy.new_seed() does
        >>> choose(known, 0, 7, size=10, count=3).tolist()
        [0, 4, 9]
        >>> choose(known, 1, 7, size=2, count=3).tolist()
        [0, 1]

    Args:
        seed: secret bytes of the batches, see ``batch_selection.new_seed``.
        step: of the run, >= 0.
        group: its number among the groups, >= 0.
        size: how many images it has, >= 0.
        count: how many are chosen at most, >= 1.

    Returns:
        Increasing places among its images, n = min(size, count).
    """
    if size <= count:
        return np.arange(size, dtype=np.int64)
    # Lengths come first, so that no two inputs give the same bytes.
    key = b"".join(
        (
            len(_DOMAIN).to_bytes(8, "little"),
            _DOMAIN,
            len(seed).to_bytes(8, "little"),
            seed,
            step.to_bytes(8, "little"),
            group.to_bytes(8, "little"),
        )
    )
    draws = np.frombuffer(hashlib.shake_256(key).digest(8 * size), "<u8")
    # The images with the smallest of independent uniform draws are a uniform choice.
    return np.sort(np.argsort(draws, kind="stable")[:count]).astype(np.int64)
