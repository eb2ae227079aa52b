"""JAX's settings that change numbers: the program's own, whatever the surroundings say.

JAX reads them from the environment (``JAX_ENABLE_X64``), and programs that import this
one set them for their own ends. Under other ones the same seed gives other images, and
a run that is resumed other draws than those that it had taken.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from dpdm_jax.errors import InputError

# With the functions of JAX that set them for a block.
_SETTINGS: dict[str, tuple[Any, Any]] = {
    "jax_enable_x64": (False, jax.enable_x64),
    "jax_default_prng_impl": ("threefry2x32", jax.default_prng_impl),
    "jax_threefry_partitionable": (True, jax.threefry_partitionable),
    "jax_numpy_dtype_promotion": ("standard", jax.numpy_dtype_promotion),
    "jax_numpy_rank_promotion": ("allow", jax.numpy_rank_promotion),
    "jax_transfer_guard": ("allow", jax.transfer_guard),
}
# That JAX sets for a whole process alone.
_OF_PROCESSES = {"jax_random_seed_offset": 0}


def pin() -> None:
    """Sets them for this process; for programs that are the only one in theirs.

    Raises:
        InputError: nothing is to be compiled.
    """
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]  # made by name
        raise InputError(
            "JAX_DISABLE_JIT is set, without which a private step takes seconds and "
            "with which hours; allowed: to leave it unset."
        )
    for name, (value, _) in _SETTINGS.items():
        jax.config.update(name, value)
    for name, number in _OF_PROCESSES.items():
        jax.config.update(name, number)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Sets them for a block, or for a function that this decorates."""
    with contextlib.ExitStack() as blocks:
        for value, block in _SETTINGS.values():
            blocks.enter_context(block(value))
        yield
