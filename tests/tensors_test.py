"""Files of named arrays, of every type that others write."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy

from dpdm_jax import tensors
from dpdm_jax.errors import InputError
from dpdm_jax.interop import torch_checkpoints


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_types_of_numpy(dtype):
    arrays = {"a": np.arange(6).reshape(2, 3).astype(dtype), "b": np.ones((), dtype)}
    found = tensors.read(safetensors.numpy.save(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_bfloat16_is_read_as_the_numbers_that_it_has(tmp_path):
    array = jnp.linspace(-1, 1, 7).astype(jnp.bfloat16)
    (tmp_path / "x.safetensors").write_bytes(safetensors.flax.save({"a": array}))
    (found,) = torch_checkpoints.read_state_dict(tmp_path / "x.safetensors").values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.asarray(array, np.float32))


def test_what_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "x.safetensors"
    content = safetensors.numpy.save({"a": np.ones(3, np.float16)})
    path.write_bytes(content.replace(b'"F16"', b'"F8_E4M3"'))
    with pytest.raises(InputError, match=r"x\.safetensors is no file of weights"):
        torch_checkpoints.read_state_dict(path)
    with pytest.raises(InputError, match=r"x\.safetensors is no file of weights"):
        torch_checkpoints.read_state_dict(tmp_path / "none" / "x.safetensors")
