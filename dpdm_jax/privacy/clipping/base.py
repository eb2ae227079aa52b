"""What every clipping engine computes, and the bound that the result carries."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32

from dpdm_jax import validate
from dpdm_jax.errors import InputError

PyTree = Any
#: ``loss(params, *arguments of one example) -> (value, aux)``
LossAndAux = Callable[..., tuple[jax.Array, PyTree]]


class Aux(NamedTuple):
    """Per-example by-products; private, with no sensitivity bound.

    Attributes:
        values: losses; None unless asked for.
        grad_norms: gradient norms before clipping, those of padding aside;
            None unless asked for.
        aux: pytree with leading axis b, what the function returned beside its value.
    """

    values: Float32[Array, " b"] | None
    grad_norms: Float32[Array, " b"] | None
    aux: PyTree


class ClippedSum(NamedTuple):
    """What an engine returns for a batch of b examples.

    Attributes:
        total: the sum that it was given plus the clipped gradients, as the arithmetic
            holds it.
        aux: per-example by-products, all present.
    """

    total: Any
    aux: Aux


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
        zeros: ``zeros(params)``, the sum of no examples: what ``+`` starts from.
    """

    fun: Callable[..., Any]
    l2_clip_norm: float
    zeros: Callable[[PyTree], Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)

    def sensitivity(self, relation: Any = "add_or_remove_one") -> float:
        """How far the sum can move in L2 norm between neighbouring data sets.

        Args:
            relation: "add_or_remove_one", "replace_special" (an example becomes
                padding) or "replace_one"; or a ``dp_accounting.NeighboringRelation``.

        Returns:
            The bound, in the units of the gradient. Exact: no rounding exceeds it.
        """
        name = str(getattr(relation, "name", relation)).lower()
        validate.one_of("The neighbouring relation", name, _CLIP_NORMS_MOVED)
        return _CLIP_NORMS_MOVED[name] * self.l2_clip_norm


def manual_axes(tree: PyTree) -> frozenset[str]:
    """Mesh axes of an enclosing ``shard_map`` along which any of the arrays differs."""
    types = [jax.typeof(x).manual_axis_type for x in jax.tree.leaves(tree)]
    return frozenset().union(*(kind.varying for kind in types))


def vary(tree: PyTree, axes: frozenset[str]) -> PyTree:
    """Declares arrays to differ along mesh axes, as each device's own copy.

    Args:
        tree: arrays.
        axes: see ``manual_axes``.

    Returns:
        The same values.
    """

    def declare(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - manual_axes(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(declare, tree)


def shape_of_one(batch: PyTree) -> PyTree:
    """The shape of one example, or of one of anything with a leading axis."""

    def shape(x: jax.Array) -> jax.ShapeDtypeStruct:
        aval, placement = jax.typeof(x), {}
        if manual_axes(x):
            sharding = jax.NamedSharding(aval.sharding.mesh, P())
            kind = aval.manual_axis_type
            placement = {"sharding": sharding, "manual_axis_type": kind}
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype, **placement)

    return jax.tree.map(shape, batch)


def batch_size(batch: PyTree) -> int:
    """The common length of the leading axis.

    Raises:
        InputError: the lengths differ or an array has no axis.
    """
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(batch)}
    (size,) = sizes if len(sizes) == 1 else (None,)
    if size is None:
        raise InputError(
            f"The batch arguments have leading lengths {sorted(map(str, sizes))}; "
            "allowed: one common length, the number of examples."
        )
    return size
