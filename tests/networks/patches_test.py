import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.networks import build_network, patches

SHAPE = (4, 6, 3)


def network_of(name, image_shape, patch_size):
    config = command_line.load_config("configs/digits.py").network
    config.name, config.patch_size = name, patch_size
    blocks = {"base_width": 4, "hidden_width": 12, "num_blocks": 1}
    config.mlp.update(blocks)
    config.transformer.update(blocks)
    config.ncsnpp.update(
        {"base_width": 4, "channel_multipliers": (1,), "num_res_blocks": 1}
        | {"attention_resolutions": (3,)}
    )
    return build_network(config, image_shape, of_classes(2))


def test_fold_gathers_each_square():
    x = np.random.default_rng(0).normal(size=(5, *SHAPE)).astype(np.float32)
    folded = patches.fold(jnp.asarray(x), 2)
    assert folded.shape == (5, 2, 3, 12) == (5, *patches.folded_shape(SHAPE, 2))
    for row in range(2):
        for column in range(3):
            square = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            np.testing.assert_array_equal(folded[:, row, column], square.reshape(5, 12))
    np.testing.assert_array_equal(patches.unfold(folded, 2), x)
    np.testing.assert_array_equal(patches.fold(jnp.asarray(x), 1), x)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncsnpp", "transformer"])
def test_a_network_on_patches_is_the_network_of_folded_images(name):
    whole, inner = network_of(name, SHAPE, 2), network_of(name, (2, 3, 12), 1)
    assert whole.image_shape == SHAPE
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape),
        whole.init(jax.random.key(0)),
    )
    x = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    arguments = jnp.linspace(-1, 1, 3), jnp.arange(3)
    expected = inner.apply(params, patches.fold(x, 2), *arguments)
    np.testing.assert_allclose(
        patches.fold(whole.apply(params, x, *arguments), 2), expected, rtol=1e-6
    )


@pytest.mark.parametrize("patch_size", [1, 2])
@pytest.mark.parametrize("name", ["adm", "mixer", "mlp", "ncsnpp", "transformer"])
def test_every_network_may_have_more_channels_than_the_image(name, patch_size):
    config = command_line.load_config("configs/digits.py").network
    config.name, config.patch_size = name, patch_size
    config.adm.update({"base_channels": 32, "channel_multipliers": (1,)})
    config.adm.update({"attention_factors": (), "head_channels": 0})
    config.ncsnpp.update({"base_width": 8, "channel_multipliers": (1,)})
    config.low_frequencies.count = 2
    network = build_network(config, SHAPE, of_classes(2), outputs=2)
    shapes = network.shapes
    arguments = jnp.zeros((3, *SHAPE)), jnp.ones(3), jnp.arange(3)
    out = jax.eval_shape(network.apply, shapes, *arguments)
    assert (out.shape, out.dtype) == ((3, *SHAPE[:2], 6), jnp.float32)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (4, "patch_size is 4; allowed for images of 4x6: a divisor of both"),
        (0, "patch_size is 0"),
    ],
)
def test_bad_sizes(size, message):
    with pytest.raises(InputError, match=message):
        network_of("mlp", SHAPE, size)
