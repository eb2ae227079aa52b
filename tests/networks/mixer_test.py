import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.networks import build_network

SHAPE = (4, 6, 1)


def network_of(image_shape=SHAPE, num_classes=3, **fields):
    config = command_line.load_config("configs/digits.py").network
    config.name, config.patch_size = "mixer", 2
    config.mixer.update({"base_width": 8, "hidden_width": 12, "num_blocks": 2})
    for name, value in fields.items():
        (config if name in config else config.mixer)[name] = value
    return build_network(config, image_shape, of_classes(num_classes))


def inputs(n=5):
    x = jax.random.normal(jax.random.key(0), (n, *SHAPE))
    return x, jnp.linspace(-1, 1, n), jnp.arange(n, dtype=jnp.int32) % 4


def shaken(network, by=0.3):
    """Parameters away from the start, where the output is nearly 0."""
    leaves, treedef = jax.tree.flatten(network.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return treedef.unflatten(
        [
            leaf + by * jax.random.normal(key, leaf.shape)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
    )


def test_count_shape_and_nearly_zero_start():
    network = network_of()

    def branch(size):
        shift = (8 * 2 * size + 2 * size) + 4 * 2 * size
        return (size * 2 * size + 2 * size) + shift + (2 * size * size + size)

    pixels = 2 * 3
    expected = (4 * 12 + 12) + 2 * (branch(pixels) + branch(12)) + (12 * 4 + 4)
    assert network.num_parameters == expected
    out = network.apply(network.init(jax.random.key(0)), *inputs())
    assert out.shape == (5, *SHAPE)
    assert out.dtype == jnp.float32
    assert 0 < float(jnp.abs(out).max()) < 1e-3


def test_images_are_independent_and_all_that_goes_in_matters():
    network = network_of()
    params = shaken(network)
    x, c_noise, label = inputs()
    whole = network.apply(params, x, c_noise, label)
    for i in range(len(x)):
        alone = network.apply(
            params, x[i : i + 1], c_noise[i : i + 1], label[i : i + 1]
        )
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-4, atol=1e-5)
    for changed in (
        (x, c_noise + 0.5, label),
        (x, c_noise, (label + 1) % 4),
        (x.at[:, 0, 0].add(1), c_noise, label),
    ):
        difference = jnp.abs(network.apply(params, *changed) - whole)
        assert np.all(difference.max(axis=(1, 2, 3)) > 1e-3)


def test_every_pixel_sees_every_other():
    network = network_of()
    params = shaken(network)
    x, c_noise, label = inputs(1)

    def pixel(x, row, column):
        return network.apply(params, x, c_noise, label)[0, row, column, 0]

    gradient = jax.grad(pixel)(x, 3, 5)
    assert np.all(np.abs(gradient) > 1e-7)


def test_the_gain_changes_the_weights_and_not_the_start():
    plain, gained = network_of(), network_of(condition_gain=4.0)
    weights = plain.init(jax.random.key(0)), gained.init(jax.random.key(0))
    block = [w["blocks"]["block_0"]["across_features"] for w in weights]
    for part, leaf in (("noise", "kernel"), ("label", "embedding")):
        np.testing.assert_allclose(
            block[0][part][leaf], 4 * block[1][part][leaf], rtol=1e-5
        )
    out = [n.apply(w, *inputs()) for n, w in zip((plain, gained), weights, strict=True)]
    np.testing.assert_allclose(*out, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_width", 10, "hidden_width is 10; allowed: a multiple of 4"),
        ("condition_gain", 0.0, "condition_gain is 0.0; allowed: .* > 0"),
        ("num_blocks", -1, "num_blocks is -1"),
    ],
)
def test_bad_fields(field, value, message):
    with pytest.raises(InputError, match=message):
        network_of(**{field: value})
