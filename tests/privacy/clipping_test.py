import functools
import math

import dp_accounting
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import clipped_grad, is_within, squared_steps
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dpdm_jax import privacy
from dpdm_jax.errors import InputError

BATCH = 5
# Options of clipped_grad that must not change the result on a batch of 5.
ENGINES = {
    "vmap": {"engine": "vmap"},
    "scan": {"engine": "scan"},
    "scan of 2": {"engine": "scan", "microbatch_size": 2},
    "scan of 3": {"engine": "scan", "microbatch_size": 3},
    "scan of 16": {"engine": "scan", "microbatch_size": 16},
    "book-keeping": {"engine": "book_keeping"},
    "book-keeping of 2": {"engine": "book_keeping", "microbatch_size": 2},
}
QUICK = ("vmap", "scan of 2", "book-keeping")
every_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in ENGINES
    ],
)

# What is done before an engine sees it depends on none of their micro-batches.
every_kind = pytest.mark.parametrize("engine", QUICK)

PARAMS = {
    "hidden": {
        "w": np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4),
        "b": np.zeros(4, np.float32),
    },
    "out": np.array([0.5, -1.0, 2.0, 0.1], np.float32),
}
X = jax.random.normal(jax.random.key(0), (BATCH, 3)) * np.arange(1.0, 6.0)[:, None]
X = np.array(X, np.float32)
Y = np.array([0.0, 1.0, -2.0, 5.0, 0.3], np.float32)


def loss(params, x, y):
    hidden = jnp.tanh(x @ params["hidden"]["w"] + params["hidden"]["b"])
    return (hidden @ params["out"] - y) ** 2


loss_of_one = jax.jit(loss)


def linear(params, x):
    """A loss whose gradient is the example itself."""
    products = jax.tree.map(lambda p, leaf: jnp.sum(p * leaf), params, x)
    return sum(jax.tree.leaves(products))


def norm_of(tree):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return math.sqrt(sum((leaf**2).sum() for leaf in leaves))


@functools.cache
def grad_of(fun):
    return jax.jit(jax.grad(fun))


def slow_norms_and_sum(fun, params, clip, *batch, weights=None):
    """Norms and clipped sum by a Python loop in float64."""
    norms, total = [], jax.tree.map(lambda p: np.zeros(p.shape), params)
    for i, example in enumerate(zip(*batch, strict=True)):
        grads = grad_of(fun)(params, *example)
        grads = jax.tree.map(lambda g: np.asarray(g, np.float64), grads)
        norm = norm_of(grads)
        factor = min(1.0, clip / (norm + 1e-6)) * (
            1.0 if weights is None else weights[i]
        )
        total = jax.tree.map(lambda t, g, f=factor: t + f * g, total, grads)
        norms.append(norm)
    return np.array(norms), total


def assert_trees_close(actual, expected, rtol=1e-5):
    """Equal up to ``rtol`` of the largest entry of each array."""

    def check(a, b):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale)

    jax.tree.map(check, actual, expected)


def assert_trees_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


# Shortens all gradients of the batch but the last.
SOME = 6.0
NOTHING, EVERYTHING = np.zeros(BATCH, bool), np.ones(BATCH, bool)


@functools.cache
def summing(engine, clip):
    """``(params, x, y, is_padding_example) -> sum, aux`` of ``loss_with_aux``."""
    grad_fn = clipped_grad(
        loss_with_aux,
        has_aux=True,
        l2_clip_norm=clip,
        batch_argnums=(1, 2),
        return_values=True,
        return_grad_norms=True,
        **ENGINES[engine],
    )
    return jax.jit(grad_fn)


def total_of(engine, clip, x=X, y=Y, padding=NOTHING):
    return summing(engine, clip)(PARAMS, x, y, is_padding_example=padding)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "clip"),
    [
        (engine, clip)
        for engine in ENGINES
        for clip in (
            [1.0, SOME, 1e3, math.inf] if engine in QUICK else [SOME, math.inf]
        )
    ],
)
def test_clipped_sum_is_that_of_a_loop_over_examples(engine, clip):
    norms, expected = slow_norms_and_sum(loss, PARAMS, clip, X, Y)
    assert 1.0 < norms[-1] < SOME < norms[:-1].min() < norms.max() < 1e3
    assert_trees_close(total_of(engine, clip), expected)


@pytest.mark.parametrize(
    ("auto", "chosen"),
    [({}, ENGINES["vmap"]), ({"microbatch_size": 2}, ENGINES["scan of 2"])],
)
def test_auto_chooses_an_engine_by_the_microbatch_size(auto, chosen):
    settings = {"l2_clip_norm": 8.0, "batch_argnums": (1, 2)}
    programs = [
        str(jax.make_jaxpr(clipped_grad(loss, **settings, **options))(PARAMS, X, Y))
        for options in (auto, chosen)
    ]
    assert programs[0] == programs[1]
    assert ("scan" in programs[0]) == ("microbatch_size" in auto)


@pytest.mark.slow
@every_engine
def test_padding_counts_for_nothing(engine):
    padding = np.array([False, True, False, False, True])
    weights = 1.0 - padding
    _, expected = slow_norms_and_sum(loss, PARAMS, SOME, X, Y, weights=weights)
    total = total_of(engine, SOME, padding=padding)
    assert_trees_close(total, expected)
    rubbish = X.copy()
    rubbish[1], rubbish[4] = np.nan, 1e30
    assert_trees_equal(total_of(engine, SOME, rubbish, padding=padding), total)


@pytest.mark.slow
@every_engine
def test_norm_is_over_all_leaves_together(engine):
    params = {"a": np.zeros(2, np.float32), "b": {"c": np.zeros((), np.float32)}}
    x = {"a": np.float32([[3.0, 0.0]]), "b": {"c": np.float32([4.0])}}
    total = jax.jit(linear_sums(engine, 1.0))(params, x)
    assert_trees_close(total, {"a": [0.6, 0.0], "b": {"c": 0.8}})


@pytest.mark.slow
def test_norm_of_many_equal_coordinates_is_complete():
    # A running float32 sum of ones stops at 2^24, and the clipped norm would exceed C.
    size = 2**25
    total = jax.jit(clipped_grad(linear, l2_clip_norm=1.0))(
        np.zeros(size, np.float32), np.ones((1, size), np.float32)
    )
    assert np.linalg.norm(np.asarray(total)) <= 1.0 + 1e-5


@every_engine
def test_short_gradients_are_not_stretched(engine):
    x = np.float32([[1e-3, 0.0], [0.0, 0.0], [0.0, -2e-5]])
    total = jax.jit(linear_sums(engine, 1.0))(np.zeros(2, np.float32), x)
    spacing = 2.0**-28  # of the grid, towards 0, for each of the two that add up
    np.testing.assert_allclose(total, [1e-3, -2e-5], rtol=1e-6, atol=spacing)
    assert np.all(np.abs(total) <= np.float32([1e-3, 2e-5]))


@every_engine
def test_zero_gradients_give_zero(engine):
    zeros = np.zeros((BATCH, 2), np.float32)
    total = jax.jit(linear_sums(engine, 1e-3))(np.ones(2, np.float32), zeros)
    np.testing.assert_array_equal(total, [0.0, 0.0])


@every_engine
@pytest.mark.parametrize("clip", [1.0, math.inf])
def test_gradient_without_finite_norm_counts_for_nothing(engine, clip):
    grad_fn, params = jax.jit(linear_sums(engine, clip)), np.zeros(2, np.float32)
    padding = np.array([False, True, False, True, False])
    for bad in (math.nan, math.inf, -math.inf, 1e30):
        x = np.float32([[1.0, 0.0], [bad, 1.0], [0.0, 2.0], [3.0, bad], [0.0, 0.1]])
        total = grad_fn(params, x, is_padding_example=NOTHING)
        expected = [1.0, 2.1] if clip == math.inf else [1.0, 1.1]
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        masked = grad_fn(params, x, is_padding_example=padding)
        np.testing.assert_array_equal(total, masked)


@every_engine
def test_batch_of_padding_gives_zeros(engine):
    total = total_of(engine, SOME, padding=EVERYTHING)
    assert_trees_equal(total, jax.tree.map(np.zeros_like, PARAMS))


@every_engine
def test_batch_of_no_examples_gives_zeros(engine):
    total, aux = summing(engine, SOME)(PARAMS, X[:0], Y[:0])
    assert_trees_equal(total, jax.tree.map(np.zeros_like, PARAMS))
    assert aux.values.shape == (0,)
    assert aux.grad_norms.shape == (0,)


def linear_sums(engine, clip):
    return clipped_grad(linear, l2_clip_norm=clip, **ENGINES[engine])


def loss_with_aux(params, x, y):
    value = loss(params, x, y)
    return value, {"error": jnp.sqrt(value), "x": x}


@pytest.mark.slow
@every_engine
def test_by_products_are_those_of_each_example(engine):
    total, aux = summing(engine, SOME)(PARAMS, X, Y, is_padding_example=NOTHING)
    norms, expected = slow_norms_and_sum(loss, PARAMS, SOME, X, Y)
    values = np.array([loss_of_one(PARAMS, x, y) for x, y in zip(X, Y, strict=True)])
    assert_trees_close(total, expected)
    np.testing.assert_allclose(aux.grad_norms, norms, rtol=1e-5)
    np.testing.assert_allclose(aux.values, values, rtol=1e-5)
    np.testing.assert_allclose(aux.aux["error"], np.sqrt(values), rtol=1e-5)
    np.testing.assert_array_equal(aux.aux["x"], X)


@pytest.mark.parametrize("asked", ["return_values", "return_grad_norms", "has_aux"])
def test_by_products_not_asked_for_are_none(asked):
    fun = loss_with_aux if asked == "has_aux" else loss
    grad_fn = clipped_grad(fun, l2_clip_norm=2.0, batch_argnums=(1, 2), **{asked: True})
    total, aux = jax.eval_shape(grad_fn, PARAMS, X, Y)
    assert jax.tree.structure(total) == jax.tree.structure(PARAMS)
    present = {
        "return_values": aux.values,
        "return_grad_norms": aux.grad_norms,
        "has_aux": aux.aux,
    }
    assert present.pop(asked) is not None
    assert list(present.values()) == [None, None]


@pytest.mark.slow
@every_kind
def test_keep_batch_dim_gives_the_loss_batches_of_one(engine):
    shapes = []

    def batch_loss(params, x, y, key):
        shapes.append((x.shape, y.shape, key.shape))
        return jnp.mean(jax.vmap(loss, (None, 0, 0))(params, x, y))

    keys = jax.random.split(jax.random.key(0), BATCH)
    settings = {"l2_clip_norm": SOME, "batch_argnums": (1, 2), **ENGINES[engine]}
    grad_fn = clipped_grad(batch_loss, prng_argnum=3, keep_batch_dim=True, **settings)
    total = jax.jit(grad_fn)(PARAMS, X, Y, keys)
    assert_trees_close(total, total_of(engine, SOME))
    assert set(shapes) == {((1, 3), (1,), ())}


@pytest.mark.slow
@every_kind
def test_several_differentiated_arguments_are_clipped_together(engine):
    def fun(a, x, b):
        return a @ x[:2] + b @ x[2:]

    x = np.float32([[3.0, 0.0, 4.0], [0.1, 0.2, 0.3]])
    grad_fn = clipped_grad(fun, argnums=(2, 0), l2_clip_norm=1.0, **ENGINES[engine])
    for_b, for_a = jax.jit(grad_fn)(np.zeros(2, np.float32), x, np.zeros(1, np.float32))
    np.testing.assert_allclose(for_b, [0.8 + 0.3], rtol=1e-5)
    np.testing.assert_allclose(for_a, [0.6 + 0.1, 0.2], rtol=1e-5)


@pytest.mark.slow
@every_kind
def test_batch_argument_may_be_a_pytree_and_stand_first(engine):
    def fun(batch, params):
        return loss(params, batch["x"], batch["y"])

    settings = {"l2_clip_norm": SOME, **ENGINES[engine]}
    grad_fn = clipped_grad(fun, argnums=1, batch_argnums=0, **settings)
    total = jax.jit(grad_fn)({"x": X, "y": Y}, PARAMS)
    assert_trees_close(total, total_of(engine, SOME))


def noisy_loss(params, x, y, key):
    return loss(params, x + jax.random.normal(key, x.shape), y)


@pytest.mark.slow
@every_engine
def test_single_key_is_folded_with_the_position(engine):
    grad_fn = clipped_grad(
        noisy_loss,
        l2_clip_norm=2.0,
        batch_argnums=(1, 2),
        prng_argnum=3,
        return_values=True,
        **ENGINES[engine],
    )
    key = jax.random.key(7)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(BATCH))
    run = jax.jit(grad_fn)
    total, aux = run(PARAMS, X, Y, key)
    _, expected = slow_norms_and_sum(noisy_loss, PARAMS, 2.0, X, Y, keys)
    assert_trees_close(total, expected)
    # Whatever the micro-batches; and the examples' own keys are taken as they are.
    assert_trees_close((total, aux), run(PARAMS, X, Y, keys))


@every_engine
def test_equal_examples_get_different_draws(engine):
    grad_fn = clipped_grad(
        lambda params, x, key: params * jax.random.normal(key),
        l2_clip_norm=1.0,
        prng_argnum=2,
        return_values=True,
        **ENGINES[engine],
    )
    ones = np.ones(BATCH, np.float32)
    _, aux = jax.jit(grad_fn)(np.float32(1.0), ones, jax.random.key(0))
    assert len(np.unique(aux.values)) == BATCH


@every_engine
@pytest.mark.parametrize("num_keys", [1, BATCH - 1, BATCH + 1])
def test_wrong_number_of_keys_is_refused(engine, num_keys):
    options = {"batch_argnums": (1, 2), "prng_argnum": 3, **ENGINES[engine]}
    grad_fn = clipped_grad(noisy_loss, l2_clip_norm=2.0, **options)
    keys = jax.random.split(jax.random.key(0), num_keys)
    with pytest.raises(ValueError):
        grad_fn(PARAMS, X, Y, keys)


@pytest.mark.slow
@every_engine
def test_low_precision_gradients_are_summed_in_float32(engine):
    # In bfloat16 neither the sum of 301 ones nor 1 / sqrt(2) exist.
    is_whole = np.repeat([True, False], 301)[:, None]
    rows = {"whole": is_whole, "shortened": ~is_whole & [True, True]}
    rows["nothing"] = np.zeros(2 * 301)
    x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), rows)
    params = jax.tree.map(lambda leaf: np.zeros_like(leaf[0]), x)
    total = jax.jit(linear_sums(engine, 1.0))(params, x)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(total)}
    assert dtypes == {jnp.dtype(jnp.float32)}
    expected = {
        "whole": np.full(1, 301.0),
        "shortened": np.full(2, 301.0 / math.sqrt(2)),
        "nothing": np.zeros(()),
    }
    assert_trees_close(total, expected)


@pytest.mark.slow
@every_engine
def test_infinite_clip_norm_is_the_plain_gradient_of_the_sum(engine):
    assert_trees_close(total_of(engine, math.inf), plain_gradient()(PARAMS))
    options = {"batch_argnums": (1, 2), **ENGINES[engine]}
    grad_fn = clipped_grad(loss, l2_clip_norm=math.inf, **options)
    assert grad_fn.sensitivity() == math.inf


@functools.cache
def plain_gradient():
    def sum_of_losses(params):
        return jnp.sum(jax.vmap(loss, (None, 0, 0))(params, X, Y))

    return jax.jit(jax.grad(sum_of_losses))


any_float = st.floats(width=32) | st.floats(-10.0, 10.0, width=32)


@functools.cache
def clipped_examples(engine, clip):
    """The gradient of ``linear`` is the example, so examples are any gradients."""
    grad_fn = privacy.clipped_grad(linear, l2_clip_norm=clip, **ENGINES[engine])
    return grad_fn, jax.jit(grad_fn)


@pytest.mark.slow
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    data=st.data(),
    batch=st.sampled_from([1, 5]),
    width=st.sampled_from([1, 3]),
    clip=st.sampled_from([1e-7, 1.0, 1e8]),
    engine=st.sampled_from(["vmap", "scan", "scan of 2", "book-keeping"]),
)
def test_one_example_moves_the_sum_by_at_most_the_sensitivity(
    data, batch, width, clip, engine
):
    def examples(*shape):
        return data.draw(hnp.arrays(np.float32, shape, elements=any_float))

    batch_tree = {"a": examples(batch, width), "b": examples(batch)}
    other = {"a": examples(width), "b": examples()}
    position = data.draw(st.integers(0, batch - 1))

    def replace(x, value):
        x = x.copy()
        x[position] = value
        return x

    grad_fn, run = clipped_examples(engine, clip)
    params = {"a": np.zeros(width, np.float32), "b": np.zeros((), np.float32)}
    nothing = np.zeros(batch, bool)
    total = run(params, batch_tree, is_padding_example=nothing)
    mask = np.arange(batch) == position
    masked = run(params, batch_tree, is_padding_example=mask)
    without = jax.tree.map(lambda x: np.delete(x, position, 0), batch_tree)
    removed = run(params, without)
    other_tree = jax.tree.map(replace, batch_tree, other)
    replaced = run(params, other_tree, is_padding_example=nothing)
    for neighbour, relation in [
        (masked, "replace_special"),
        (removed, "add_or_remove_one"),
        (replaced, "replace_one"),
    ]:
        # No rounding is forgiven.
        moved = squared_steps(total, neighbour)
        assert is_within(moved, total, grad_fn.sensitivity(relation))


@pytest.mark.parametrize("clip", [0.5, math.inf])
def test_sensitivity_under_each_relation(clip):
    grad_fn = clipped_grad(loss, l2_clip_norm=clip, batch_argnums=(1, 2))
    relations = dp_accounting.NeighboringRelation
    assert grad_fn.l2_clip_norm == clip
    assert grad_fn.sensitivity() == clip
    assert grad_fn.sensitivity("add_or_remove_one") == clip
    assert grad_fn.sensitivity("replace_special") == clip
    assert grad_fn.sensitivity("replace_one") == 2 * clip
    assert grad_fn.sensitivity(relations.ADD_OR_REMOVE_ONE) == clip
    assert grad_fn.sensitivity(relations.REPLACE_SPECIAL) == clip
    assert grad_fn.sensitivity(relations.REPLACE_ONE) == 2 * clip


def test_unknown_relation_is_refused():
    grad_fn = clipped_grad(loss, l2_clip_norm=1.0, batch_argnums=(1, 2))
    with pytest.raises(
        InputError,
        match="is 'swap'; allowed: add_or_remove_one, replace_special, replace_one",
    ):
        grad_fn.sensitivity("swap")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2_clip_norm": 0.0}, "l2_clip_norm is 0.0; allowed: a number > 0"),
        ({"l2_clip_norm": -1.0}, "l2_clip_norm is -1.0; allowed: a number > 0"),
        ({"l2_clip_norm": math.nan}, "l2_clip_norm is nan; allowed: a number > 0"),
        ({"l2_clip_norm": -math.inf}, "l2_clip_norm is -inf; allowed: a number > 0"),
        ({"l2_clip_norm": "1"}, "l2_clip_norm is '1'; allowed: a number > 0"),
        ({"l2_clip_norm": None}, "l2_clip_norm is None; allowed: a number > 0"),
        ({"engine": "ghost"}, "engine is 'ghost'; allowed: auto, vmap, scan, book"),
        ({"microbatch_size": 0}, "microbatch_size is 0; allowed: an integer >= 1"),
        ({"microbatch_size": 1.5}, "microbatch_size is 1.5; allowed: an integer >= 1"),
        ({"microbatch_size": True}, "microbatch_size is True; allowed: an integer"),
        (
            {"microbatch_size": 2, "engine": "vmap"},
            "microbatch_size is 2 with engine 'vmap', .*; allowed: engine 'scan'",
        ),
        ({"batch_argnums": 0}, "overlap; allowed: distinct arguments"),
        ({"batch_argnums": (1, 1)}, "overlap; allowed: distinct arguments"),
        ({"prng_argnum": 1}, "overlap; allowed: distinct arguments"),
        ({"prng_argnum": 0}, "overlap; allowed: distinct arguments"),
        ({"argnums": (0, 2), "prng_argnum": 2}, "overlap; allowed: distinct"),
    ],
)
def test_bad_option_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        clipped_grad(loss, **{"l2_clip_norm": 1.0, **options})


@pytest.mark.parametrize(
    ("leaf", "named"),
    [(3, "int"), (jnp.arange(3), "int32"), (jnp.ones(3, complex), "complex64")],
)
@pytest.mark.parametrize("engine", ["vmap", "book_keeping"])
def test_parameter_that_has_no_real_gradient_is_refused(engine, leaf, named):
    grad_fn = clipped_grad(
        lambda params, x: params["w"] * x, l2_clip_norm=1.0, engine=engine
    )
    with pytest.raises(InputError, match=f"type .*{named}.*; allowed: real floating"):
        grad_fn({"w": 1.0, "other": leaf}, X[:, 0])


@pytest.mark.parametrize(
    ("x", "y", "padding", "message"),
    [
        (X, Y[:4], None, r"leading lengths \['4', '5'\]; allowed: one common length"),
        (X, Y[0], None, r"leading lengths .*'None'.*; allowed: one common length"),
        (X, Y, jnp.zeros(4, bool), r"shape \(4,\); allowed: \(5,\)"),
        (X, Y, jnp.zeros((5, 1), bool), r"shape \(5, 1\); allowed: \(5,\)"),
        (X, Y, jnp.zeros((), bool), r"shape \(\); allowed: \(5,\)"),
    ],
)
def test_bad_batch_is_refused(x, y, padding, message):
    grad_fn = clipped_grad(loss, l2_clip_norm=1.0, batch_argnums=(1, 2))
    with pytest.raises(InputError, match=message):
        grad_fn(PARAMS, x, y, is_padding_example=padding)


@functools.cache
def by_jax_privacy(clip):
    oracle = pytest.importorskip("jax_privacy", reason="the oracle is not installed")
    grad_fn = oracle.clipped_grad(
        loss,
        l2_clip_norm=clip,
        batch_argnums=(1, 2),
        keep_batch_dim=False,
        return_values=True,
        return_grad_norms=True,
    )
    return jax.jit(grad_fn)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [1.0, SOME, math.inf])
@pytest.mark.parametrize("engine", QUICK)
def test_jax_privacy_agrees(engine, clip):
    padding = np.array([False, False, True, False, False])
    x = np.where(np.arange(BATCH)[:, None] == 0, np.float32(np.nan), X)
    (ours, our_aux), (theirs, their_aux) = (
        run(PARAMS, x, Y, is_padding_example=padding)
        for run in (summing(engine, clip), by_jax_privacy(clip))
    )
    assert_trees_close(ours, theirs, rtol=2e-5)
    real = np.array([1, 3, 4])
    for name in ("values", "grad_norms"):
        mine, other = getattr(our_aux, name), getattr(their_aux, name)
        np.testing.assert_allclose(mine[real], other[real], rtol=1e-5)


def test_named_arguments_are_put_in_their_place():
    def loss(w, x, scale=1.0, *, power=2):
        return jnp.sum(scale * (x - w) ** power)

    w, x = jnp.ones(2), jnp.arange(6.0).reshape(3, 2)
    fn = privacy.clipped_grad(loss, l2_clip_norm=1.0)
    expected = fn(w, x).to_float()
    np.testing.assert_array_equal(fn(w, x=x).to_float(), expected)
    np.testing.assert_array_equal(fn(x=x, w=w, scale=1.0).to_float(), expected)
    with pytest.raises(InputError, match="takes power by name alone"):
        fn(w, x, power=3)
    with pytest.raises(InputError, match="was given y by name, and the loss cannot be"):
        fn(w, y=x)
