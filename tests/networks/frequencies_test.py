import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.errors import InputError
from dpdm_jax.model import build_model
from dpdm_jax.networks import build_network


def config_of(**network):
    config = command_line.load_config("configs/digits.py")
    config.diffusion.parameterization = "edm_dct"
    config.network.base_width, config.network.hidden_width = 4, 12
    for field, value in network.items():
        config.network[field] = value
    return config


def test_only_the_lowest_frequencies_are_seen_and_predicted():
    shape = (6, 5, 2)
    whole = build_network(config_of(num_frequencies=3).network, shape, 2)
    inner = build_network(config_of().network, (3, 3, 2), 2)
    assert whole.image_shape == shape
    assert whole.num_parameters == inner.num_parameters
    params = jax.tree.map(lambda leaf: leaf + 0.1, whole.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (3, *shape))
    arguments = jnp.linspace(-1, 1, 3), jnp.arange(3)
    predicted = whole.apply(params, x, *arguments)
    np.testing.assert_array_equal(
        predicted[:, :3, :3], inner.apply(params, x[:, :3, :3], *arguments)
    )
    assert not np.any(predicted[:, 3:])
    assert not np.any(predicted[:, :, 3:])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (7, "num_frequencies is 7; allowed for images of 6x8: 0 to 6"),
        (-1, "num_frequencies is -1"),
    ],
)
def test_bad_counts(size, message):
    with pytest.raises(InputError, match=message):
        build_network(config_of(num_frequencies=size).network, (6, 8, 1), 2)


def test_pixels_have_no_lowest_frequencies():
    config = config_of(num_frequencies=4)
    config.diffusion.parameterization = "v"
    with pytest.raises(InputError, match=r"num_frequencies is 4; .* not edm_dct: 0"):
        build_model(config, (8, 8, 1), 10)
