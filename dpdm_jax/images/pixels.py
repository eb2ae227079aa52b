"""Between bytes and the range of training, [-1, 1]."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dpdm_jax import validate

#: How fractions of a level become bytes: cut off, as the papers do, or rounded.
ROUNDINGS = ("truncate", "nearest")

# A table, since compilers turn the division into a product that rounds otherwise.
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(127.5) - np.float32(1)


def to_float(pixels: np.ndarray | jax.Array) -> jax.Array:
    """Maps bytes to the range of training, ``u / 127.5 - 1``, on the device.

    The same bits come out everywhere, in whatever program it is compiled.

    Args:
        pixels: uint8 array of any shape.

    Returns:
        float32 array of the same shape, in [-1, 1].
    """
    if pixels.dtype != np.uint8:
        raise TypeError(f"pixels are {pixels.dtype}; allowed: uint8.")
    return jnp.asarray(_LEVELS).at[pixels].get(mode="promise_in_bounds")


_Array = TypeVar("_Array", np.ndarray, jax.Array)


def to_uint8(
    images: _Array,
    rounding: str = "truncate",
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> _Array:
    """Maps floats to bytes, the ends of their range to 0 and 255.

    The papers' code drops the fraction, which makes images half a level darker on
    average; "nearest" does not, and undoes ``to_float``.

    Args:
        images: finite floats of any shape, clipped to the range; of NumPy, or of JAX in
            a program, where the same bytes come out.
        rounding: one of ``ROUNDINGS``.
        value_range: (low, high), low < high.

    Returns:
        uint8 array of the same shape.

    Raises:
        InputError: another rounding.
    """
    validate.one_of("rounding", rounding, ROUNDINGS)
    low, high = map(images.dtype.type, value_range)
    scale = images.dtype.type(255 / (value_range[1] - value_range[0]))
    library: Any = images.__array_namespace__()
    levels = (library.clip(images, low, high) - low) * scale
    return (library.rint(levels) if rounding == "nearest" else levels).astype(np.uint8)
