"""Trains an Equinox network privately: python -m experiments.reuse.equinox_mlp."""

import equinox as eqx
import jax

from experiments.reuse import dp_sgd


def main() -> None:
    """Trains and reports."""
    model = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    result = dp_sgd.train_and_test(
        lambda params, image: eqx.combine(params, static)(image.ravel()), params
    )
    dp_sgd.report("Equinox", *result)


if __name__ == "__main__":
    main()
