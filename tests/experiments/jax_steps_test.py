"""JAX's ordinary side of the benchmarks is the gradient of the mean loss."""

import jax
import numpy as np
import pytest

from experiments.benchmarks import finetune_problem, finetune_sides, jax_steps


def models():
    model, _ = jax_steps.build("mlp", 2)
    yield model, jax_steps.batch(3)
    # Its draws see crops of the image.
    config = finetune_problem.load_config("least", "float32", 2, 0)
    model = finetune_problem.load_model(config)
    keys = jax.random.split(jax.random.key(2), 3)
    yield model, (finetune_sides.examples(model, 3), keys)


@pytest.mark.parametrize("which", [0, 1])
def test_one_batch_of_all_draws_has_the_gradient_of_the_mean_loss(which):
    model, batch = list(models())[which]
    loss = model.loss()
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32),
        model.init(jax.random.key(0)),
    )
    arguments = (params, *batch)

    def mean_loss(*arguments):
        return jax.vmap(loss, (None, 0, 0))(*arguments).mean()

    expected = jax.jit(jax.grad(mean_loss))(*arguments)
    gradient = jax.jit(jax_steps.nonprivate(model))(*arguments)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient))
    assert largest > 1e-3  # not a comparison of zeros
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest),
        gradient,
        expected,
    )
