import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.networks import build_network


def network_of(image_shape=(4, 4, 1), num_classes=3, **fields):
    config = command_line.load_config("configs/digits.py").network
    config.mlp.update({"base_width": 8, "hidden_width": 12, "num_blocks": 2})
    config.update(fields)
    return build_network(config, image_shape, of_classes(num_classes))


def inputs(n=5, shape=(4, 4, 1)):
    x = jax.random.normal(jax.random.key(0), (n, *shape))
    return x, jnp.linspace(-1, 1, n), jnp.arange(n, dtype=jnp.int32) % 4


def test_count_shape_and_nearly_zero_start():
    network = network_of()
    block = (12 * 12 + 12) + (8 * 12 + 12) + 4 * 12 + (12 * 12 + 12)
    assert network.num_parameters == (16 * 12 + 12) + 2 * block + (12 * 16 + 16)
    params = network.init(jax.random.key(0))
    out = network.apply(params, *inputs())
    assert out.shape == (5, 4, 4, 1)
    assert out.dtype == jnp.float32
    assert 0 < float(jnp.abs(out).max()) < 1e-3


def test_images_are_independent_and_conditions_matter():
    network = network_of()
    params = network.init(jax.random.key(1))
    params["output"]["kernel"] = jax.random.normal(jax.random.key(2), (12, 16))
    for block in params["blocks"].values():
        block["output"]["kernel"] = jax.random.normal(jax.random.key(3), (12, 12))
    x, c_noise, label = inputs()
    out = network.apply(params, x, c_noise, label)
    alone = network.apply(params, x[2:3], c_noise[2:3], label[2:3])
    np.testing.assert_allclose(out[2:3], alone, atol=1e-4)
    for other in ((x, c_noise + 0.5, label), (x, c_noise, (label + 1) % 4)):
        assert float(jnp.abs(network.apply(params, *other) - out).max()) > 1e-3


def test_unlabelled_ignores_the_label():
    network = network_of(num_classes=0)
    params = network.init(jax.random.key(0))
    assert "label" not in params["blocks"]["block_0"]
    x, c_noise, label = inputs()
    np.testing.assert_array_equal(
        network.apply(params, x, c_noise, label),
        network.apply(params, x, c_noise, label * 0),
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mlp": {"base_width": 3}}, "network.mlp.base_width is 3"),
        ({"mlp": {"hidden_width": 0}}, "network.mlp.hidden_width is 0"),
        ({"mlp": {"num_blocks": -1}}, "network.mlp.num_blocks is -1"),
        ({"dtype": "float8"}, "network.dtype is 'float8'"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(InputError, match=message):
        network_of(**fields)
