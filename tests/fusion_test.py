import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.fusion import materialize

pytestmark = pytest.mark.optimized  # what their compiler makes of it


def test_values_and_gradients_pass():
    x = jnp.array([1.0, -2.0, jnp.inf])
    np.testing.assert_array_equal(jax.jit(materialize)(x), x)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(3 * materialize(x))))(x)
    np.testing.assert_array_equal(gradient, [3, 3, 3])
    mapped = jax.vmap(jax.grad(lambda x: materialize(x) ** 2))(x[:2])
    np.testing.assert_array_equal(mapped, [2, -4])


def num_fusions_that_read(program: str, operation: str) -> int:
    """In how many computations of a compiled program an operation stands."""
    return sum(f" {operation}(" in body for body in program.split("\n\n"))


def test_a_value_with_many_readers_is_computed_once_on_cpu():
    def readers(x, store):
        y = store(jnp.abs(x) + 1)
        return jnp.sum(y, axis=0), jnp.sum(y, axis=1), y.T.reshape(-1) * 2

    x = jnp.ones((64, 64))
    programs = [
        jax.jit(lambda x, store=store: readers(x, store)).lower(x).compile().as_text()
        for store in (lambda y: y, materialize)
    ]
    plain, stored = (num_fusions_that_read(program, "abs") for program in programs)
    assert plain > 1
    assert stored == 1


def test_accelerators_fuse_as_they_like():
    lower = lambda platform: jax.export.export(  # noqa: E731
        jax.jit(materialize), platforms=[platform]
    )(jnp.ones(3)).mlir_module()
    assert "call @" in lower("cpu")
    for platform in ("tpu", "cuda"):
        assert "call @" not in lower(platform)
        assert "optimization_barrier" not in lower(platform)
