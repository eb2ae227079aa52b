"""JAX's ordinary side of the benchmarks is the gradient of the mean loss."""

import jax
import numpy as np

from experiments.benchmarks import jax_steps


def test_one_batch_of_all_draws_has_the_gradient_of_the_mean_loss():
    k = 2
    model, loss = jax_steps.build("mlp", k)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32),
        model.init(jax.random.key(0)),
    )
    arguments = (params, *jax_steps.batch(3))

    def mean_loss(*arguments):
        return jax.vmap(loss, (None, 0, 0))(*arguments).mean()

    expected = jax.jit(jax.grad(mean_loss))(*arguments)
    gradient = jax.jit(jax_steps.nonprivate(model, "mlp", k))(*arguments)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient,
        expected,
    )
    # Not a comparison of zeros.
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(gradient)) > 1e-3
