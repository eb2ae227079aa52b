"""The mean of a loss over parts of its draws, or images, differentiated part by part.

The gradient of a mean is the mean of gradients. So a part's is worked out together with
its loss, and added to those before: neither the activations of several parts are ever
held at once, nor is a part's forward pass taken twice.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from dpdm_jax.diffusion.denoiser import Params


def mean_of_parts(
    loss: Callable[[Params, Any, Any], Float32[Array, ""]],
    params: Params,
    shared: Any,
    parts: Any,
    weights: Float32[Array, " n"] | None = None,
) -> Float32[Array, ""]:
    """Averages the losses of parts, one after another.

    It can be differentiated by parameters alone, forwards not at all. The gradient is
    held twice while it is worked out: that of the parts so far, and that of the next.

    Args:
        loss: ``loss(params, shared, part)``.
        params: tree of arrays.
        shared: tree of arrays that all parts see.
        parts: tree of arrays with a leading axis of parts.
        weights: of the parts, which add up to 1; None for equal ones. What a part of
            weight 0 holds does not matter as long as its loss and gradient are finite.

    Returns:
        The mean.

    Raises:
        TypeError: it is differentiated by anything but parameters.
    """
    number, treedef = len(jax.tree.leaves(parts)[0]), jax.tree.structure(params)

    def weighted(params: Params, shared: Any, weighted_part: Any) -> Array:
        part, weight = weighted_part
        found = loss(params, shared, part)
        return found / number if weight is None else weight * found

    @jax.custom_vjp
    def mean(params: Params, shared: Any, parts: Any) -> Array:
        def add(total: Array, part: Any) -> tuple[Array, None]:
            return total + weighted(params, shared, part), None

        return jax.lax.scan(add, jnp.zeros(()), parts)[0]

    def forward(*arguments: Any) -> tuple[Array, list[Array | None]]:
        is_moved = [x.perturbed for x in jax.tree.leaves(arguments[0])]
        if any(x.perturbed for x in jax.tree.leaves(arguments[1:])):
            raise TypeError("a mean of parts has no gradient but by its parameters.")
        params, shared, parts = jax.tree.map(lambda x: x.value, arguments)
        leaves = jax.tree.leaves(params)

        def share(moved: list[Array | None], part: Any) -> Array:
            merged = [
                leaf if own is None else own
                for leaf, own in zip(leaves, moved, strict=True)
            ]
            return weighted(jax.tree.unflatten(treedef, merged), shared, part)

        moved = [
            leaf if is_one else None
            for leaf, is_one in zip(leaves, is_moved, strict=True)
        ]

        def add(carry: Any, part: Any) -> tuple[Any, None]:
            found = jax.value_and_grad(share)(moved, part)
            return jax.tree.map(jnp.add, carry, found), None

        nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, moved))
        return jax.lax.scan(add, nothing, parts)[0]

    def backward(
        gradient: list[Array | None], weight: Array
    ) -> tuple[Params, None, None]:
        by_leaf = [None if leaf is None else weight * leaf for leaf in gradient]
        return jax.tree.unflatten(treedef, by_leaf), None, None

    mean.defvjp(forward, backward, symbolic_zeros=True)
    return mean(params, shared, (parts, weights))
