"""Products with a weight matrix whose gradients are fast on CPU where rows are few.

The gradient by the rows is a product with the transposed matrix. The program that
XLA's CPU compiler has for it reorders the matrix, number by number, which for few rows
takes several times as long as the product. Here the rows, which are less, are
transposed. Private gradients of large networks, taken one example at a time, are made
of such products. Accelerators keep ``jnp.matmul``.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32

from dpdm_jax.fusion import materialize

# Weights that are worth a rule of their own, which takes its time to compile.
_MANY = 2**17


def matmul(
    x: Float[Array, "*n i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*n o"]:
    """Product of rows with a matrix of weights.

    Args:
        x: rows.
        kernel: of their dtype.

    Returns:
        The products.
    """
    rows = math.prod(x.shape[:-1])
    if rows < 2 or not are_few(rows, kernel.shape, kernel.size):
        return jnp.matmul(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_on_cpu, default=jnp.matmul)


def are_few(rows: int, widths: tuple[int, ...], num_weights: int) -> bool:
    """Whether on CPU rows had better be transposed, and not the weights.

    Args:
        rows: how many there are.
        widths: of a row and of a product.
        num_weights: of the matrix, or of all those of a kernel.
    """
    return 2 * rows <= max(widths) and num_weights >= _MANY


def by_transposed(
    kernel: Float[Array, "i o"], dy: Float[Array, "n o"]
) -> Float32[Array, "i n"]:
    """The matrix times each of a few rows, quick on CPU.

    Args:
        kernel: weights.
        dy: rows, of their dtype.

    Returns:
        The products, a column each, in float32.
    """
    # Both stored as they are written here: XLA would make of it the product of dy and
    # of the transposed kernel, which has the same values.
    columns = materialize(dy.T)
    return materialize(jnp.matmul(kernel, columns, preferred_element_type=jnp.float32))


@jax.custom_vjp
def _on_cpu(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel)


_Residuals = tuple[Array, Array]


def _forward(x: Array, kernel: Array) -> tuple[Array, _Residuals]:
    return jnp.matmul(x, kernel), (x, kernel)


def _backward(residuals: _Residuals, dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows = dy.reshape(-1, dy.shape[-1])
    dx = by_transposed(kernel, rows).T.reshape(x.shape).astype(x.dtype)
    _, by_kernel = jax.vjp(functools.partial(jnp.matmul, x), kernel)
    return dx, by_kernel(dy)[0]


_on_cpu.defvjp(_forward, _backward)
