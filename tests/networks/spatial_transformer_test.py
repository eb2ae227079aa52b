import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_params import awake

from dpdm_jax.networks.spatial_transformer import SpatialTransformer

WIDTH, HEADS = 5, 4


def make(context_width):
    return awake(
        lambda rngs: SpatialTransformer(
            32, context_width, num_heads=HEADS, depth=2, dtype=jnp.float32, rngs=rngs
        )
    )


def inputs():
    keys = jax.random.split(jax.random.key(0))
    x = 0.1 * jax.random.normal(keys[0], (2, 2, 3, 32))
    return x, jax.random.normal(keys[1], (2, 3, WIDTH))


@pytest.mark.parametrize("has_context", [True, False])
def test_it_is_that_of_pytorch_layers(has_context):
    official = pytest.importorskip("torch_latents")
    params, bind = make(WIDTH if has_context else None)
    x, context = inputs()
    context = context if has_context else None
    actual = jax.jit(lambda *args: bind(args[0])(*args[1:]))(params, x, context)
    x, context = official.as_torch((x, context))
    expected = official.spatial_transformer(
        official.as_torch(params), x, context, HEADS
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5)


def test_one_token_is_added_whatever_asks_for_it():
    """The softmax over a single key is 1: neither queries nor keys matter."""
    params, bind = make(WIDTH)
    x, context = inputs()

    def loss(params):
        return jnp.sum(bind(params)(x, context[:, :1]) ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    for block in gradients["blocks"].values():
        for dead in (
            block["cross_attention"]["query"],
            block["cross_attention"]["key"],
            block["norm_b"],
        ):
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(dead))
        assert np.any(block["cross_attention"]["value"]["kernel"])
