"""Trains a Flax Linen network privately: python -m experiments.reuse.flax_linen."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.reuse import dp_sgd


class CNN(nn.Module):
    """Somebody's convolutional classifier of [n, 8, 8, 1] images."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [n, 10]."""
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def main() -> None:
    """Trains and reports."""
    model = CNN()
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    result = dp_sgd.train_and_test(
        lambda params, image: model.apply(params, image[None])[0], params
    )
    dp_sgd.report("Flax Linen", *result)


if __name__ == "__main__":
    main()
