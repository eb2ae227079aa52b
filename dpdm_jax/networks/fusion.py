"""Where the CPU compiler has to end a fusion.

XLA's CPU compiler merges element-wise operations into everything that reads them and
computes them anew in each. Along a residual stream the backward pass then repeats, in
every sum and every transposition, the whole chain of layers behind it: half of the time
of a training step, and most of the time of compiling it.
"""

import jax
from jax import lax


def materialize(x: jax.Array) -> jax.Array:
    """Computes the array once and stores it, and its cotangent likewise, on CPU.

    Values don't change. Other platforms fuse well and are left alone. On CPU the
    barrier holds where ``xla_flags.configure`` ran before JAX started, since XLA drops
    barriers before it fuses; elsewhere it does nothing.

    Args:
        x: array of any shape and dtype.

    Returns:
        The same values.
    """
    return lax.platform_dependent(x, cpu=lax.optimization_barrier, default=lambda x: x)
