"""A mean over parts has the gradient of the plain mean, in whatever it is put."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import clipped_grad

from dpdm_jax.diffusion.parts import mean_of_parts

PARAMS = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3)}
SHARED = jnp.array([0.3, -0.2])
PARTS = {"x": jax.random.normal(jax.random.key(0), (4, 5, 2))}


def loss(params, shared, part):
    h = jnp.tanh((part["x"] + shared) @ params["a"])
    return jnp.mean((h * params["b"] - 0.5) ** 2)


def plain(params, shared, parts):
    return jnp.mean(jax.vmap(loss, (None, None, 0))(params, shared, parts))


in_parts = functools.partial(mean_of_parts, loss)


def assert_close(ours, theirs):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        ours,
        theirs,
    )


def test_value_and_gradient_are_those_of_the_mean():
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda p, f=f: 3.0 * f(p, SHARED, PARTS)))(PARAMS)
        for f in (in_parts, plain)
    )
    assert_close(ours, theirs)
    assert_close(in_parts(PARAMS, SHARED, PARTS), plain(PARAMS, SHARED, PARTS))


def test_parts_may_have_weights():
    """And what has none may be anything."""
    weights = jnp.array([0.25, 0.75, 0.0, 0.0])
    parts = {"x": PARTS["x"].at[2:].set(1e3)}

    def weighted(params):
        losses = jax.vmap(loss, (None, None, 0))(params, SHARED, PARTS)
        return 0.25 * losses[0] + 0.75 * losses[1]

    ours = jax.jit(jax.value_and_grad(in_parts))(PARAMS, SHARED, parts, weights)
    assert_close(ours, jax.value_and_grad(weighted)(PARAMS))
    assert_close(in_parts(PARAMS, SHARED, parts, weights), weighted(PARAMS))


def test_some_of_the_parameters_may_be_fixed():
    """No gradient of what is fixed is worked out, and none is asked of integers."""
    fixed = {"b": PARAMS["b"], "n": jnp.arange(3)}

    def of(f):
        return lambda a: f({"a": a, "b": fixed["b"]}, SHARED, PARTS)

    assert_close(jax.grad(of(in_parts))(PARAMS["a"]), jax.grad(of(plain))(PARAMS["a"]))
    frozen = jax.make_jaxpr(jax.grad(of(in_parts)))(PARAMS["a"])
    # The sum so far of one leaf is carried, beside the loss.
    (scan,) = [eqn for eqn in frozen.eqns if eqn.primitive.name == "scan"]
    shapes = [found.aval.shape for found in scan.outvars]
    assert shapes == [(), PARAMS["a"].shape]

    def with_integers(params, shared, part):
        return loss(params, shared, part) * params["n"].sum()

    value = mean_of_parts(with_integers, PARAMS | fixed, SHARED, PARTS)
    np.testing.assert_allclose(value, 3 * plain(PARAMS, SHARED, PARTS), rtol=1e-5)


@pytest.mark.parametrize("which", [1, 2])
def test_a_gradient_by_anything_else_is_refused(which):
    gradient = jax.grad(in_parts, argnums=which)
    with pytest.raises(TypeError, match="no gradient but by its parameters"):
        gradient(PARAMS, SHARED, PARTS)


@pytest.mark.parametrize(
    "engine",
    [
        {"engine": "vmap"},
        {"engine": "scan", "microbatch_size": 1},
        {"engine": "scan", "microbatch_size": 2},
        {"engine": "book_keeping"},
        {"engine": "book_keeping", "microbatch_size": 2},
    ],
    ids=str,
)
def test_engines_clip_and_add_the_same_gradients(engine):
    examples = jax.random.normal(jax.random.key(1), (3, 4, 5, 2))
    examples *= jnp.array([0.1, 1.0, 5.0])[:, None, None, None]

    def total(f, engine):
        fun = clipped_grad(
            lambda params, x: f(params, SHARED, {"x": x}),
            l2_clip_norm=0.6,
            return_values=True,
            return_grad_norms=True,
            **engine,
        )
        return jax.jit(fun.fun)(PARAMS, examples)

    (ours, aux), (theirs, expected) = total(in_parts, engine), total(plain, {})
    assert expected.grad_norms.min() < 0.6 < expected.grad_norms.max()
    assert_close(ours, theirs)
    assert_close(aux, expected)


def needed(number, at_once):
    """Temporary memory of a gradient, and the size of one of a single draw's."""
    width = 256
    weights = {"in": jnp.ones((16, width)), "out": jnp.ones((width, 16))}

    def wide(params, shared, part):
        h = jnp.tanh(part[:, None] @ params["in"] @ params["out"])
        return jnp.mean((h - shared) ** 2)

    draws = jax.ShapeDtypeStruct((number // at_once, at_once, 16), jnp.float32)
    gradient = jax.jit(jax.grad(functools.partial(mean_of_parts, wide)))
    compiled = gradient.lower(weights, 0.5, draws).compile()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    return compiled.memory_analysis().temp_size_in_bytes, size


@pytest.mark.optimized
def test_memory_is_two_gradients_whatever_the_number_of_draws():
    few, one = needed(16, 2)
    many, _ = needed(1024, 2)
    # Neither 1,024 draws' gradients are held nor their activations, 1,024 KiB.
    assert many - few < 1024 * 16 * 4 * 2
    assert many < 3 * one + 1024 * 16 * 4 * 2
