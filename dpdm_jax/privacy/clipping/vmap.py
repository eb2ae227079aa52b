import functools

import jax
import jax.numpy as jnp

from dpdm_jax.privacy.clipping.base import (
    Aux,
    ClippedSum,
    ExampleLoss,
    PyTree,
    clip_factors,
    squared_norms,
    weighted_sum,
)


def vmap_engine(
    loss: ExampleLoss,
    params: PyTree,
    batch: PyTree,
    is_padding: jax.Array,
    l2_clip_norm: float,
) -> ClippedSum:
    """The reference engine: one vectorized gradient holding all b per-example ones.

    Memory grows with b times the number of parameters.

    Args:
        loss: see ``ExampleLoss``.
        params: what to differentiate by.
        batch: tuple of arguments, each with leading axis b.
        is_padding: bool [b].
        l2_clip_norm: C > 0.

    Returns:
        The clipped sum and the per-example by-products.
    """
    example_grad = functools.partial(jax.value_and_grad(loss, has_aux=True), params)
    (values, aux), grads = jax.vmap(example_grad)(*batch)
    norms = jnp.sqrt(squared_norms(grads))
    factors = clip_factors(norms, is_padding, l2_clip_norm)
    total = jax.tree.map(functools.partial(weighted_sum, factors), grads)
    return ClippedSum(total, Aux(values, norms, aux))
