"""Trains a Flax NNX network privately: python -m experiments.reuse.flax_nnx."""

import jax
from flax import nnx

from experiments.reuse import dp_sgd


class MLP(nnx.Module):
    """Somebody's classifier of [n, 8, 8, 1] images."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.output = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns logits [n, 10]."""
        return self.output(nnx.relu(self.hidden(x.reshape(x.shape[0], -1))))


def main() -> None:
    """Trains and reports."""
    graph, params = nnx.split(MLP(nnx.Rngs(0)))
    result = dp_sgd.train_and_test(
        lambda params, image: nnx.merge(graph, params)(image[None])[0], params
    )
    dp_sgd.report("Flax NNX", *result)


if __name__ == "__main__":
    main()
