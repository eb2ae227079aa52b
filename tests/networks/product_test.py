import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import clipped_grad

from dpdm_jax.networks import product


@pytest.fixture
def any_size(monkeypatch):
    """Matrices that are otherwise too small for the rule."""
    monkeypatch.setattr(product, "_MANY", 0)


def arrays(shape, outputs, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], shape, dtype)
    kernel = jax.random.normal(keys[1], (shape[-1], outputs), dtype)
    return x, kernel, jax.random.normal(keys[2], (*shape[:-1], outputs), dtype)


def gradients(function, x, kernel, dy):
    value, pullback = jax.vjp(function, x, kernel)
    return value, *pullback(dy)


# Few rows, one row, and as many as the matrix is wide.
@pytest.mark.parametrize("shape", [(4, 8), (2, 3, 8), (1, 8), (8,), (40, 8)])
@pytest.mark.parametrize("outputs", [3, 16])
@pytest.mark.usefixtures("any_size")
def test_values_and_gradients_are_those_of_matmul(shape, outputs):
    given = arrays(shape, outputs)
    ours, theirs = (
        jax.jit(functools.partial(gradients, f))(*given)
        for f in (product.matmul, jnp.matmul)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_gradients_of_examples_are_those_of_matmul():
    x, kernel, dy = arrays((5, 4, 8), 16)
    ours, theirs = (
        jax.jit(jax.vmap(functools.partial(gradients, f), (0, None, 0)))(x, kernel, dy)
        for f in (product.matmul, jnp.matmul)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("any_size")
def test_bfloat16_rounds_as_matmul_does():
    given = arrays((4, 64), 32, jnp.bfloat16)
    ours = gradients(product.matmul, *given)
    exact = gradients(jnp.matmul, *(a.astype(jnp.float32) for a in given))
    for one, other in zip(ours, exact, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), other, rtol=0.02, atol=0.1)


def by_transposed_matrices(function, given):
    """How many products of the compiled program go along the rows of a matrix."""
    program = jax.jit(functools.partial(gradients, function)).lower(*given)
    return program.compile().as_text().count("rhs_contracting_dims={1}")


@pytest.mark.usefixtures("any_size")
def test_rows_are_transposed_and_not_the_matrix():
    given = arrays((4, 32), 48)
    assert by_transposed_matrices(product.matmul, given) == 0
    # What the rule is there for: without it the compiler has it so.
    assert by_transposed_matrices(jnp.matmul, given) == 1


def test_small_matrices_have_no_rule_of_their_own():
    x, kernel, _ = arrays((4, 256), 511)
    assert "custom_vjp" not in str(jax.make_jaxpr(product.matmul)(x, kernel))
    wider = jnp.pad(kernel, ((0, 0), (0, 1)))
    assert "custom_vjp" in str(jax.make_jaxpr(product.matmul)(x, wider))


@pytest.mark.usefixtures("any_size")
def test_accelerators_keep_the_plain_product():
    given = arrays((4, 8), 16)
    run = jax.jit(functools.partial(gradients, product.matmul))
    plain = jax.jit(functools.partial(gradients, jnp.matmul))
    for platform in ("tpu", "cuda"):
        ours, theirs = (
            jax.export.export(f, platforms=[platform])(*given).mlir_module()
            for f in (run, plain)
        )
        assert ours.count("stablehlo.dot_general") == 3
        assert theirs.count("stablehlo.dot_general") == 3
        assert "optimization_barrier" not in ours


@pytest.mark.usefixtures("any_size")
def test_engines_agree_on_few_rows():
    x, first, _ = arrays((3, 2, 8), 16)
    _, second, _ = arrays((3, 2, 16), 8)

    def loss(params, x):
        for kernel in params:
            x = jnp.tanh(product.matmul(x, kernel))
        return jnp.sum(x)

    grad_fn = functools.partial(clipped_grad, loss, l2_clip_norm=7.0, batch_argnums=1)
    (expected, aux), *others = (
        grad_fn(engine=engine, return_grad_norms=True)((first, second), x)
        for engine in ("vmap", "scan", "book_keeping")
    )
    assert aux.grad_norms.min() < 7.0 < aux.grad_norms.max()
    for actual, _ in others:
        for one, other in zip(actual, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
