import jax

from dpdm_jax.privacy.clipping.base import (
    Aux,
    ClippedSum,
    ExampleGrad,
    PyTree,
    clip_and_sum,
)


def vmap_engine(
    example_grad: ExampleGrad,
    batch: PyTree,
    is_padding: jax.Array,
    l2_clip_norm: float,
) -> ClippedSum:
    """The reference engine: one vectorized gradient holding all b per-example ones.

    Memory grows with b times the number of parameters.

    Args:
        example_grad: see ``ExampleGrad``.
        batch: tuple of arguments, each with leading axis b.
        is_padding: bool [b].
        l2_clip_norm: C > 0.

    Returns:
        The clipped sum and the per-example by-products.
    """
    (values, aux), grads = jax.vmap(example_grad)(*batch)
    total, norms = clip_and_sum(grads, is_padding, l2_clip_norm)
    return ClippedSum(total, Aux(values, norms, aux))
