"""The plain port that benchmarks compare with computes what the library does."""

import jax
import numpy as np

from dpdm_jax.conditions import of_classes
from dpdm_jax.models.model import build_model
from experiments.benchmarks import plain_port, problem


def test_losses_agree():
    config = problem.load_config("tiny", noise_multiplicity=2)
    model = build_model(config, problem.IMAGE_SHAPE, of_classes(problem.NUM_CLASSES))
    ours = model.loss()
    network, ported = plain_port.build("tiny", noise_multiplicity=2)
    rng = np.random.default_rng(0)
    # Weights of visible size in every layer, unlike initial ones.
    params = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32),
        network.init(jax.random.key(0)),
    )
    image = rng.integers(0, 256, problem.IMAGE_SHAPE, np.uint8)
    example = {"image": image, "condition": np.int32(3)}
    arguments = (params, example, jax.random.key(1))
    value, ported_value = jax.jit(ours)(*arguments), jax.jit(ported)(*arguments)
    np.testing.assert_allclose(ported_value, value, rtol=1e-4)
    at_zero = jax.jit(ours)(jax.tree.map(np.zeros_like, params), *arguments[1:])
    assert abs(float(value / at_zero) - 1) > 0.01  # the network matters
