import functools

import jax

from dpdm_jax.privacy.clipping.arithmetic import Arithmetic, Joined
from dpdm_jax.privacy.clipping.base import Aux, ClippedSum, LossAndAux, PyTree


def vmap_engine(
    loss: LossAndAux,
    params: PyTree,
    batch: PyTree,
    is_padding: jax.Array,
    arithmetic: Arithmetic,
    total: Joined,
) -> ClippedSum:
    """The reference engine: one vectorized gradient holding all b per-example ones.

    Memory grows with b times the number of parameters.

    Args:
        loss: see ``LossAndAux``.
        params: what to differentiate by.
        batch: tuple of arguments, each with leading axis b.
        is_padding: bool [b].
        arithmetic: how gradients are clipped and added.
        total: the sum to add to, joined.

    Returns:
        The clipped sum and the per-example by-products.
    """
    example_grad = functools.partial(jax.value_and_grad(loss, has_aux=True), params)
    (values, aux), grads = jax.vmap(example_grad)(*batch)
    counts = ~is_padding
    total, squares, _ = arithmetic.visit(
        total,
        jax.tree.leaves(grads),
        counts,
        lambda squares, roundings, rows: arithmetic.factors(
            squares, roundings, rows(counts)
        ),
    )
    return ClippedSum(total, Aux(values, arithmetic.norms(squares), aux))
