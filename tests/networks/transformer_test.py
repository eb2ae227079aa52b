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
    config.name = "transformer"
    config.patch_size = 2
    config.transformer.update({"base_width": 8, "hidden_width": 12, "num_blocks": 2})
    config.transformer.num_heads = 3
    for name, value in fields.items():
        (config if name in config else config.transformer)[name] = value
    return build_network(config, image_shape, of_classes(num_classes))


def trained(network):
    """Weights that are not near zero anywhere."""
    params = network.init(jax.random.key(1))
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return treedef.unflatten(
        [
            x + 0.3 * jax.random.normal(k, x.shape)
            for x, k in zip(leaves, keys, strict=True)
        ]
    )


def inputs(n=5, shape=SHAPE):
    x = jax.random.normal(jax.random.key(0), (n, *shape))
    return x, jnp.linspace(-1, 1, n), jnp.arange(n, dtype=jnp.int32) % 4


@pytest.mark.slow
def test_count_shape_and_nearly_zero_start():
    network = network_of()
    attention = (12 * 36 + 36) + (12 * 12 + 12)
    hidden = (12 * 24 + 24) + (8 * 24 + 24) + 4 * 24 + (24 * 12 + 12)
    ends = (4 * 12 + 12) + (12 * 4 + 4)
    assert network.num_parameters == ends + 2 * (attention + hidden)
    out = network.apply(network.init(jax.random.key(0)), *inputs())
    assert out.shape == (5, *SHAPE)
    assert out.dtype == jnp.float32
    assert 0 < float(jnp.abs(out).max()) < 1e-3


@pytest.mark.slow
def test_images_are_independent_and_conditions_matter():
    network = network_of()
    params = trained(network)
    x, c_noise, label = inputs()
    out = network.apply(params, x, c_noise, label)
    alone = network.apply(params, x[2:3], c_noise[2:3], label[2:3])
    np.testing.assert_allclose(out[2:3], alone, atol=1e-4)
    for other in ((x, c_noise + 0.5, label), (x, c_noise, (label + 1) % 4)):
        assert float(jnp.abs(network.apply(params, *other) - out).max()) > 1e-3


@pytest.mark.slow
def test_patches_see_one_another_and_know_their_place():
    network = network_of(num_blocks=1)
    params = trained(network)
    x, c_noise, label = inputs()
    out = network.apply(params, x, c_noise, label)
    changed = network.apply(params, x.at[:, 0, 0].add(1.0), c_noise, label)
    assert float(jnp.abs(changed - out)[:, 2:, 4:].min()) > 0
    # All patches equal, yet each is answered in its own way.
    flat = network.apply(params, jnp.ones_like(x), c_noise, label)
    patches = np.asarray(flat[0]).reshape(2, 2, 3, 2).transpose(0, 2, 1, 3)
    patches = patches.reshape(6, 4)
    for i in range(6):
        for j in range(i):
            assert np.abs(patches[i] - patches[j]).max() > 1e-3


@pytest.mark.slow
def test_without_blocks_every_patch_keeps_its_pixels():
    # Input and output maps that undo one another give back a patch, moved to zero mean
    # and unit variance, in the place where it was.
    network = network_of(num_blocks=0, num_heads=1, hidden_width=4)
    params = network.init(jax.random.key(0))
    for name in ("input", "output"):
        params[name]["kernel"] = 1e4 * jnp.eye(4)  # positions vanish beside this
    x, c_noise, label = inputs()
    out = np.asarray(network.apply(params, x, c_noise, label)) / 1e4
    for row in (0, 2):
        for column in (0, 2, 4):
            part = np.s_[:, row : row + 2, column : column + 2, 0]
            before = np.asarray(x)[part].reshape(5, 4)
            before = before - before.mean(1, keepdims=True)
            before /= before.std(1, keepdims=True)
            np.testing.assert_allclose(out[part].reshape(5, 4), before, atol=1e-2)


@pytest.mark.slow
def test_unlabelled_ignores_the_label():
    network = network_of(num_classes=0)
    params = trained(network)
    assert "label" not in params["blocks"]["block_0"]
    x, c_noise, label = inputs()
    np.testing.assert_array_equal(
        network.apply(params, x, c_noise, label),
        network.apply(params, x, c_noise, label * 0),
    )


@pytest.mark.slow
def test_bfloat16_is_close_and_keeps_float32_parameters():
    network, rough = network_of(), network_of(dtype="bfloat16")
    params = trained(network)
    out, rounded = (net.apply(params, *inputs()) for net in (network, rough))
    assert rounded.dtype == jnp.float32
    error = float(jnp.linalg.norm(rounded - out) / jnp.linalg.norm(out))
    assert 0 < error < 0.05
    leaves = jax.tree.leaves(rough.init(jax.random.key(0)))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 5}, "hidden_width is 12; .* with 5 heads: a multiple of 20"),
        ({"hidden_width": 6, "num_heads": 1}, "a multiple of 4"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_blocks": -1}, "num_blocks is -1"),
        ({"base_width": 2}, "base_width is 2"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(InputError, match=message):
        network_of(**fields)
