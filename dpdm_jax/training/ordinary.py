"""Ordinary gradients: of the sum of examples' losses, where nothing is clipped."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpdm_jax.privacy.clipping import Aux


def ordinary_grad(
    loss: Callable[..., jax.Array], microbatch_size: int | None = None
) -> Callable[..., tuple[Any, Aux]]:
    """Transforms a loss of one example into the gradient of a sum of losses.

    No gradient of a single example is ever made, so that there is no bound on what one
    adds: for data that needs no protection.

    Args:
        loss: ``loss(params, example, key)``, of any tree of arrays.
        microbatch_size: examples that are worked on at once; None for all.

    Returns:
        ``grad_fn(params, examples, keys, is_padding_example, total)``, of arrays with a
        leading axis of examples: the sum ``total`` plus the gradients of those that are
        no padding, and their losses, without norms.
    """

    def loss_of_some(
        params: Any, examples: Any, keys: jax.Array, is_padding: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        # A factor of 0 would leave nothing of a gradient but where that is infinite.
        def blank(x: jax.Array) -> jax.Array:
            rows = is_padding.reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.where(rows, jnp.zeros_like(x), x)

        examples = jax.tree.map(blank, examples)
        losses = jax.vmap(loss, (None, 0, 0))(params, examples, keys)
        return jnp.sum(jnp.where(is_padding, 0.0, losses)), losses

    of_some = jax.grad(loss_of_some, has_aux=True)

    def grad_fn(
        params: Any,
        examples: Any,
        keys: jax.Array,
        *,
        is_padding_example: jax.Array,
        total: Any,
    ) -> tuple[Any, Aux]:
        size = len(is_padding_example)
        at_once = microbatch_size or size
        if at_once >= size:
            grads, losses = of_some(params, examples, keys, is_padding_example)
            grads = jax.tree.map(jnp.add, total, grads)
            return grads, Aux(values=losses, grad_norms=None, aux=None)
        parts = -(-size // at_once)
        padding = [(0, parts * at_once - size)]

        def cut(x: jax.Array) -> jax.Array:
            # Keys have no zeros to pad with: the first example stands in.
            rows = jnp.pad(jnp.arange(size), padding)
            return x[rows].reshape(parts, at_once, *x.shape[1:])

        is_padding = jnp.pad(is_padding_example, padding, constant_values=True)

        def add(grads: Any, part: Any) -> tuple[Any, jax.Array]:
            more, losses = of_some(params, *part)
            return jax.tree.map(jnp.add, grads, more), losses

        grads, losses = jax.lax.scan(
            add,
            total,
            (*jax.tree.map(cut, (examples, keys)), is_padding.reshape(parts, at_once)),
        )
        values = losses.reshape(-1)[:size]
        return grads, Aux(values=values, grad_norms=None, aux=None)

    return grad_fn
