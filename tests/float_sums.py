"""``clipped_grad`` with exact sums in float32, as those who look at them see them."""

import dataclasses
from fractions import Fraction

import jax
import numpy as np

from dpdm_jax import privacy
from dpdm_jax.privacy import ExactSum
from dpdm_jax.privacy.exact import grid


def is_sum(x):
    return isinstance(x, ExactSum)


def in_float32(result):
    """Whatever has exact sums in it, with float32 leaves in their place."""
    return jax.tree.map(
        lambda x: x.to_float() if is_sum(x) else x, result, is_leaf=is_sum
    )


def clipped_grad(*args, **options):
    grad_fn = privacy.clipped_grad(*args, **options)

    def fun(*arguments, **padding):
        return in_float32(grad_fn(*arguments, **padding))

    return dataclasses.replace(grad_fn, fun=fun)


def exact(tree, l2_clip_norm=1.0):
    """A sum of one vector that is not clipped: its norm is at most the clip norm."""
    return privacy.exact_sum(
        jax.tree.map(lambda x: x[None], tree), l2_clip_norm=l2_clip_norm
    )


def in_float64(result):
    """Whatever has exact sums in it, with the very numbers in NumPy's float64."""

    def numbers(total):
        integers = grid.to_integers(total)
        return jax.tree.map(lambda x: x * np.float64(total.spacing), integers)

    return jax.tree.map(
        lambda x: numbers(x) if is_sum(x) else x, result, is_leaf=is_sum
    )


def squared_steps(one, other=None):
    """Squared length of a sum, or of what leads from it to another; in grid steps."""
    sums = [grid.to_integers(total) for total in (one, other) if total is not None]
    difference = sums[0] if other is None else jax.tree.map(np.subtract, *sums)
    return sum(int(x) ** 2 for leaf in jax.tree.leaves(difference) for x in leaf.flat)


def is_within(squared, total, norm):
    """Whether a length in grid steps is at most a norm, in exact arithmetic."""
    return squared * Fraction(total.spacing) ** 2 <= Fraction(norm) ** 2
