import functools

import jax
import jax.numpy as jnp

from dpdm_jax.privacy.clipping.base import (
    ClippedSum,
    Engine,
    ExampleGrad,
    PyTree,
    batch_size,
)
from dpdm_jax.privacy.clipping.vmap import vmap_engine


def scan_engine(microbatch_size: int) -> Engine:
    """An engine with bounded memory: micro-batches one after another, each vectorized.

    Args:
        microbatch_size: examples per micro-batch, >= 1. The batch is padded to a
            multiple of it.

    Returns:
        The engine; memory grows with ``microbatch_size`` times the number of
        parameters, whatever the batch.
    """

    def engine(
        example_grad: ExampleGrad,
        batch: PyTree,
        is_padding: jax.Array,
        l2_clip_norm: float,
    ) -> ClippedSum:
        size = batch_size(batch)
        chunks = -(-size // microbatch_size)

        def split(x: jax.Array) -> jax.Array:
            # Copies of real rows as filling: they are masked, and unlike zeros they are
            # legal whatever the dtype (PRNG keys) and the function's domain.
            row = jnp.arange(chunks * microbatch_size) % size
            return x[row].reshape(chunks, microbatch_size, *x.shape[1:])

        filling = jnp.arange(chunks * microbatch_size) >= size
        masks = split(is_padding) | filling.reshape(chunks, microbatch_size)
        run = functools.partial(vmap_engine, example_grad, l2_clip_norm=l2_clip_norm)

        def body(total: PyTree, chunk: tuple[PyTree, jax.Array]) -> tuple:
            result = run(*chunk)
            return jax.tree.map(jnp.add, total, result.total), result.aux

        split_batch = jax.tree.map(split, batch)
        # From shapes alone: an empty batch has no first micro-batch.
        first = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), (split_batch, masks)
        )
        shapes = jax.eval_shape(run, *first).total
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, aux = jax.lax.scan(body, zeros, (split_batch, masks))
        join = lambda x: x.reshape(-1, *x.shape[2:])[:size]  # noqa: E731
        return ClippedSum(total, jax.tree.map(join, aux))

    return engine
