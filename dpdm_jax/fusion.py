"""Where the CPU compiler has to end a fusion.

XLA's CPU compiler merges element-wise operations into everything that reads them and
computes them anew in each. Along a residual stream the backward pass then repeats, in
every sum and every transposition, the whole chain of layers behind it: half of the time
of a training step, and most of the time of compiling it.
"""

from typing import TypeVar

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

#: An array, or a tree of arrays.
Arrays = TypeVar("Arrays")


def materialize(x: Arrays) -> Arrays:
    """Computes the array once and stores it, and its cotangent likewise, on CPU.

    Values don't change. Other platforms fuse well and are left alone.

    Args:
        x: array of any shape and dtype, or a tree of them, which are there together.

    Returns:
        The same values.
    """
    return lax.platform_dependent(x, cpu=_call_identity, default=lambda x: x)


def _call_identity(x: Arrays) -> Arrays:
    # XLA drops barriers before it fuses, but never fuses across a call that it must not
    # inline. The call costs nothing: its result is its argument, in the same memory.
    with set_xla_metadata(inlineable="false"):
        return _identity(x)


@jax.jit
def _identity(x: Arrays) -> Arrays:
    # JAX would drop a call that gave back its argument alone.
    return lax.optimization_barrier(x)
