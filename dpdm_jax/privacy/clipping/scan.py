import jax
import jax.numpy as jnp

from dpdm_jax.privacy.clipping.arithmetic import Arithmetic, Cells, Engine, Joined
from dpdm_jax.privacy.clipping.base import (
    Aux,
    ClippedSum,
    LossAndAux,
    PyTree,
    batch_size,
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
        loss: LossAndAux,
        params: PyTree,
        batch: PyTree,
        is_padding: jax.Array,
        arithmetic: Arithmetic,
        total: Cells | Joined,
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

        def body(
            total: Cells | Joined, chunk: tuple[PyTree, jax.Array]
        ) -> tuple[Cells | Joined, Aux]:
            result = inner(loss, params, *chunk, arithmetic, total)
            return result.total, result.aux

        split_batch = jax.tree.map(split, batch)
        total, aux = jax.lax.scan(body, total, (split_batch, masks))
        join = lambda x: x.reshape(-1, *x.shape[2:])[:size]  # noqa: E731
        return ClippedSum(total, jax.tree.map(join, aux))

    return engine
