"""What every clipping engine computes, and the bound that the result carries."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpdm_jax import validate
from dpdm_jax.errors import InputError

PyTree = Any
#: ``value_and_grad(*batched args of one example) -> ((value, aux), grads)``
ExampleGrad = Callable[..., tuple[tuple[jax.Array, PyTree], PyTree]]


class Aux(NamedTuple):
    """Per-example by-products; private, with no sensitivity bound.

    Attributes:
        values: float32 [b], losses; None unless asked for.
        grad_norms: float32 [b], gradient norms before clipping; None unless asked for.
        aux: pytree with leading axis b, what the function returned beside its value.
    """

    values: jax.Array | None
    grad_norms: jax.Array | None
    aux: PyTree


class ClippedSum(NamedTuple):
    """What an engine returns for a batch of b examples.

    Attributes:
        total: pytree like the gradient, float32: the sum of clipped gradients.
        aux: per-example by-products, all present.
    """

    total: PyTree
    aux: Aux


#: ``engine(example_grad, batch, is_padding [b], l2_clip_norm) -> ClippedSum``
Engine = Callable[[ExampleGrad, PyTree, jax.Array, float], ClippedSum]

# How far one clipped vector can move the sum, in units of the clip norm.
_CLIP_NORMS_MOVED = {
    "add_or_remove_one": 1.0,
    "replace_special": 1.0,
    "replace_one": 2.0,
}


@dataclasses.dataclass(frozen=True)
class ClippedGrad:
    """A function that returns a sum of clipped per-example gradients.

    Attributes:
        fun: the function.
        l2_clip_norm: bound C on the L2 norm of what one example adds to the sum.
    """

    fun: Callable[..., Any]
    l2_clip_norm: float

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    def sensitivity(self, relation: Any = "add_or_remove_one") -> float:
        """How far the sum can move in L2 norm between neighbouring data sets.

        Args:
            relation: "add_or_remove_one", "replace_special" (an example becomes
                padding) or "replace_one"; or a ``dp_accounting.NeighboringRelation``.

        Returns:
            The bound, in the units of the gradient.
        """
        name = str(getattr(relation, "name", relation)).lower()
        validate.one_of("The neighbouring relation", name, _CLIP_NORMS_MOVED)
        return _CLIP_NORMS_MOVED[name] * self.l2_clip_norm


def clip_and_sum(
    grads: PyTree, is_padding: jax.Array, l2_clip_norm: float
) -> tuple[PyTree, jax.Array]:
    """Clips per-example gradients to the clip norm and sums them.

    Each gradient is scaled by ``min(1, C / (norm + 1e-6))``, the norm taken over all
    leaves together (Abadi et al. 2016, algorithm 1). A padding example and one with a
    non-finite gradient add exactly zero.

    Args:
        grads: pytree of [b, ...] arrays.
        is_padding: bool [b].
        l2_clip_norm: C > 0, may be infinite.

    Returns:
        The sum, float32 and without the axis b; the norms before clipping, float32 [b].
    """
    leaves, treedef = jax.tree.flatten(grads)
    leaves = [leaf.astype(jnp.float32) for leaf in leaves]
    squares = [jnp.sum(leaf**2, axis=tuple(range(1, leaf.ndim))) for leaf in leaves]
    norms = jnp.sqrt(sum(squares))
    counts = jnp.isfinite(norms) & ~is_padding
    factors = jnp.minimum(1.0, l2_clip_norm / (norms + 1e-6))

    def weighted_sum(leaf: jax.Array) -> jax.Array:
        shape = (-1,) + (1,) * (leaf.ndim - 1)
        # where, not a product: 0 * nan is nan.
        kept = jnp.where(counts.reshape(shape), factors.reshape(shape) * leaf, 0.0)
        return jnp.sum(kept, axis=0)

    return treedef.unflatten([weighted_sum(leaf) for leaf in leaves]), norms


def batch_size(batch: PyTree) -> int:
    """The common length of the leading axis.

    Raises:
        InputError: the lengths differ or an array has no axis.
    """
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or None in sizes:
        raise InputError(
            f"The batch arguments have leading lengths {sorted(map(str, sizes))}; "
            "allowed: one common length, the number of examples."
        )
    return sizes.pop()
