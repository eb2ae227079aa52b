import functools

import jax
import jax.numpy as jnp

from dpdm_jax.privacy.clipping.base import (
    ClippedSum,
    Engine,
    ExampleLoss,
    PyTree,
    batch_size,
    manual_axes,
    vary,
)
from dpdm_jax.privacy.clipping.vmap import vmap_engine


def scan_engine(microbatch_size: int, inner: Engine = vmap_engine) -> Engine:
    """An engine with bounded memory: micro-batches one after another.

    Args:
        microbatch_size: examples per micro-batch, >= 1. The batch is padded to a
            multiple of it.
        inner: the engine of a micro-batch.

    Returns:
        The engine; memory is that of ``inner`` for one micro-batch, whatever the batch.
    """

    def engine(
        loss: ExampleLoss,
        params: PyTree,
        batch: PyTree,
        is_padding: jax.Array,
        l2_clip_norm: float,
    ) -> ClippedSum:
        size = batch_size(batch)
        width = min(microbatch_size, max(1, size))
        chunks = -(-size // width)

        def split(x: jax.Array) -> jax.Array:
            # Copies of real rows as filling: they are masked, and unlike zeros they are
            # legal whatever the dtype (PRNG keys) and the function's domain.
            row = jnp.arange(chunks * width) % size
            return x[row].reshape(chunks, width, *x.shape[1:])

        filling = jnp.arange(chunks * width) >= size
        masks = split(is_padding) | filling.reshape(chunks, width)
        run = functools.partial(inner, loss, params, l2_clip_norm=l2_clip_norm)

        def body(total: PyTree, chunk: tuple[PyTree, jax.Array]) -> tuple:
            result = run(*chunk)
            return jax.tree.map(jnp.add, total, result.total), result.aux

        split_batch = jax.tree.map(split, batch)
        zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), params)
        zeros = vary(zeros, manual_axes(split_batch))
        total, aux = jax.lax.scan(body, zeros, (split_batch, masks))
        join = lambda x: x.reshape(-1, *x.shape[2:])[:size]  # noqa: E731
        return ClippedSum(total, jax.tree.map(join, aux))

    return engine
