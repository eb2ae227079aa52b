import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.training.ordinary import ordinary_grad

SIZE = 7


def loss(params, example, key):
    image, (label,) = example["image"], example["condition"]
    noise = jax.random.normal(key, image.shape)
    return jnp.sum((params["w"] * image + 0.1 * noise) ** 2) * (1 + label)


@pytest.mark.parametrize("microbatch_size", [None, 3, 7, 20])
def test_it_is_the_sum_of_the_examples_gradients(microbatch_size):
    params = {"w": jnp.float32(0.7)}
    images = jax.random.normal(jax.random.key(0), (SIZE, 4, 4, 1))
    labels = jnp.arange(SIZE)
    keys = jax.random.split(jax.random.key(1), SIZE)
    is_padding = jnp.arange(SIZE) == 5
    images = images.at[5].set(jnp.inf)  # what padding holds does not matter
    examples = {"image": images, "condition": (labels,)}
    grads, aux = jax.jit(ordinary_grad(loss, microbatch_size))(
        params,
        examples,
        keys,
        is_padding_example=is_padding,
        total={"w": jnp.float32(1000.0)},
    )
    each = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))
    losses, gradients = each(params, examples, keys)
    kept = ~np.asarray(is_padding)
    np.testing.assert_allclose(
        grads["w"], 1000 + np.asarray(gradients["w"])[kept].sum(), rtol=1e-5
    )
    np.testing.assert_allclose(aux.values[kept], losses[kept], rtol=1e-6)
    assert aux.grad_norms is None
