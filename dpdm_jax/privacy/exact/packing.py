"""Trees of arrays as few vectors: compilers make a program for each array.

A compiled training step that hands over a sum leaf by leaf has four hundred programs
that cut small leaves out of what was added as one vector, a third of the time that
compiling a U-Net's step takes. XLA sees that a vector which is unpacked and packed
again is the same.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

# Numbers from which an array stays alone.
_ALONE = 2**12


def groups(sizes: Sequence[int]) -> list[list[int]]:
    """Says which arrays go together: large ones alone, all small ones as one.

    Args:
        sizes: how many numbers each array has.

    Returns:
        Places of the arrays of each group.
    """
    small = [i for i, size in enumerate(sizes) if size < _ALONE]
    alone = [[i] for i, size in enumerate(sizes) if size >= _ALONE]
    return [*alone, small] if small else alone


def pack(tree: PyTree) -> list[jax.Array]:
    """Returns a vector of each of the ``groups`` of a tree's arrays, of one dtype."""
    leaves = jax.tree.leaves(tree)
    return [
        jnp.concatenate([leaves[i].reshape(-1) for i in group])
        for group in groups([leaf.size for leaf in leaves])
    ]


def unpack(packed: Sequence[jax.Array], like: PyTree) -> PyTree:
    """Undoes ``pack``.

    Args:
        packed: what ``pack`` returned.
        like: a tree of arrays, or shapes, like the one that was packed.

    Returns:
        The tree.
    """
    leaves, treedef = jax.tree.flatten(like)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    found = list(leaves)
    for group, vector in zip(groups(sizes), packed, strict=True):
        start = 0
        for i in group:
            end = start + sizes[i]
            found[i] = vector[start:end].reshape(leaves[i].shape)
            start = end
    return jax.tree.unflatten(treedef, found)
