"""Files of named arrays in the format safetensors, as others write them."""

import jax.numpy as jnp
import numpy as np
import safetensors

# NumPy has all of its types but this one by itself.
_DTYPES = {
    "BF16": np.dtype(jnp.bfloat16),
    "BOOL": np.dtype(np.bool_),
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
}


def read(content: bytes) -> dict[str, np.ndarray]:
    """Reads arrays by name.

    Args:
        content: of a file .safetensors.

    Raises:
        safetensors.SafetensorError: it is damaged, or no such file.
        ValueError: an array is of a type that is not read.
    """
    arrays = {}
    for name, fields in safetensors.deserialize(content):
        dtype = _DTYPES.get(fields["dtype"])
        if dtype is None:
            raise ValueError(f"{name} is of the type {fields['dtype']}")
        data = np.frombuffer(fields["data"], dtype)
        arrays[name] = data.reshape(fields["shape"])
    return arrays
