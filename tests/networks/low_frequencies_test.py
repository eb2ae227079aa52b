import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.images.frequencies import dct_matrix
from dpdm_jax.networks import build_network
from dpdm_jax.networks.low_frequencies import Settings

SHAPE = (6, 8, 2)


def config_of(**fields):
    config = command_line.load_config("configs/digits.py").network
    config.mlp.update({"base_width": 4, "num_blocks": 1, "hidden_width": 5})
    config.mixer.update({"base_width": 4, "num_blocks": 1, "hidden_width": 12})
    config.low_frequencies.update({"base_width": 4, "hidden_width": 5})
    config.update(fields)
    return config


def network_of(count):
    config = config_of(name="mixer", patch_size=2, low_frequencies={"count": count})
    return build_network(config, SHAPE, of_classes(2))


def test_the_perceptron_is_added_on_the_lowest_frequencies():
    alone, both = network_of(0), network_of(3)
    perceptron = build_network(config_of(name="mlp"), (3, 3, 2), of_classes(2))
    assert both.image_shape == SHAPE
    assert both.num_parameters == alone.num_parameters + perceptron.num_parameters
    params = jax.tree.map(lambda leaf: leaf + 0.1, both.init(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    rest = jnp.linspace(-1, 1, 3), jnp.arange(3)
    added = both.apply(params, x, *rest) - alone.apply(params["network"], x, *rest)
    rows, columns = dct_matrix(6), dct_matrix(8)
    coefficients = np.einsum("ui,nijc,vj->nuvc", rows, x, columns)
    predicted = np.einsum("ui,nijc,vj->nuvc", rows, added, columns)
    expected = perceptron.apply(
        params["low_frequencies"], coefficients[:, :3, :3], *rest
    )
    np.testing.assert_allclose(predicted[:, :3, :3], expected, atol=1e-5)
    assert np.abs(expected).min() > 1e-3
    np.testing.assert_allclose(predicted[:, 3:], 0, atol=1e-5)
    np.testing.assert_allclose(predicted[:, :, 3:], 0, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (7, "count is 7; allowed for images of 6x8: 0 to 6"),
        (-1, "low_frequencies.count is -1"),
    ],
)
def test_bad_counts(count, message):
    with pytest.raises(InputError, match=message):
        network_of(count)


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_width", 3), ("hidden_width", 0), ("condition_gain", 0.0)],
)
def test_bad_fields_have_their_own_name(field, value):
    with pytest.raises(InputError, match=f"network.low_frequencies.{field} is {value}"):
        Settings(**{field: value})
