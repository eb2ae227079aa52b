"""Sums: what one example adds, whatever it holds; attacks that float32 sums allow."""

import functools
import itertools
import math
import warnings

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import exact, is_within, squared_steps
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.custom_batching import custom_vmap

from dpdm_jax import privacy
from dpdm_jax.errors import InputError
from dpdm_jax.privacy.clipping import arithmetic
from dpdm_jax.privacy.exact import bounds, grid, norms

ENGINES = {
    "vmap": {"engine": "vmap"},
    "scan": {"engine": "scan"},
    "scan of 3": {"engine": "scan", "microbatch_size": 3},
    "book-keeping": {"engine": "book_keeping"},
}
every_engine = pytest.mark.parametrize("engine", ENGINES)
SIZE = 40


def linear(w, x):
    """Its gradient is the example."""
    return jnp.vdot(w, x)


def entrywise(w, x):
    """The same, but no product of a matrix with a vector."""
    return jnp.sum(w * x)


@functools.cache
def summing(fun, engine, clip):
    grad_fn = privacy.clipped_grad(fun, l2_clip_norm=clip, **ENGINES[engine])
    return jax.jit(grad_fn.fun)


SCALES = st.sampled_from([2.0**e for e in (-149, -127, -60, -28, -3, 0, 40, 63, 100)])
any_float = (
    st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.integers(-149, 127).map(lambda e: math.ldexp(1.0, e))
    | st.builds(lambda x, s: float(np.float32(x * s)), st.floats(-1, 1), SCALES)
)


@pytest.mark.slow
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    data=st.data(),
    fun=st.sampled_from([linear, entrywise]),
    engine=st.sampled_from(list(ENGINES)),
    clip=st.sampled_from([2.0**-60, 1e-7, 1.0, 1.999, 2.0**60]),
)
def test_no_example_adds_more_than_the_clip_norm(data, fun, engine, clip):
    """All of float32, from the smallest subnormal to the largest finite number."""
    x = data.draw(hnp.arrays(np.float32, (5, SIZE), elements=any_float))
    run = summing(fun, engine, clip)
    params = jnp.zeros(SIZE)
    total = run(params, x)
    for position in range(5):
        mask = np.arange(5) == position
        without = run(params, x, is_padding_example=mask)
        alone = run(params, x, is_padding_example=~mask)
        assert squared_steps(total, without) == squared_steps(alone)
        assert is_within(squared_steps(alone), total, clip)


@every_engine
@pytest.mark.parametrize("big", [1e37, 9e37, 1e38, 3e38])
def test_large_factors_do_not_escape_the_clip(engine, big):
    """The reciprocal of the largest entry may be subnormal, and flushed to 0."""

    def fun(w, x):
        return 1e-30 * jnp.vdot(w, x)

    total = summing(fun, engine, 1.0)(jnp.zeros(6), jnp.full((1, 6), big))
    length = math.sqrt(squared_steps(total)) * total.spacing
    assert 0.9999 < length <= 1.0


@every_engine
def test_a_layer_that_normalises_does_not_escape_the_clip(engine):
    def fun(p, x):
        h = x @ p  # one row: an outer product
        return jnp.sum((h / (1e-6 + jnp.max(jnp.abs(h))) - 1.0) ** 2)

    p = 1e-3 * jax.random.normal(jax.random.key(0), (6, 4))
    run = summing(fun, engine, 1.0)
    for big in (1e30, 1e37, 1e38, 3e38):
        total = run(p, jnp.full((2, 6), big))
        assert is_within(squared_steps(total), total, 2.0)


def adversarial(k):
    """Numbers up to 1 in an order in which float32 sums go astray by nearly 1."""
    least = 2.0 ** (k - 24)  # half of a unit in the last place below 2^k
    target = 2.0**k - 0.99
    big = [0.9375] * int(target / 0.9375)
    return np.array([*big, target - sum(big), *[1.49 * least] * 4000], np.float32)


@pytest.mark.parametrize("engine", ["vmap", "scan", "book-keeping"])
def test_order_of_addition_moves_nothing(engine):
    x = adversarial(12)  # 8,369 examples
    more = np.concatenate([[np.float32(0.999998)], x])
    # In float32 the example's place at the front moves the sum by 1.98.
    moved = np.float64(np.cumsum(more)[-1]) - np.cumsum(x)[-1]
    assert abs(moved) > 1.9
    run = summing(entrywise, engine, 1.0)
    params, padding = jnp.zeros(4), np.arange(len(more)) == 0
    rows = jnp.repeat(jnp.asarray(more)[:, None], 4, 1) / 2
    total = run(params, rows)
    without = run(params, rows, is_padding_example=padding)
    assert is_within(squared_steps(total, without), total, 1.0)
    for order in (np.arange(len(more))[::-1], np.argsort(more, kind="stable")):
        assert squared_steps(run(params, rows[order]), total) == 0


def test_engines_and_micro_batches_give_one_sum():
    x = jax.random.normal(jax.random.key(0), (11, SIZE))
    totals = [summing(entrywise, e, 2.0)(jnp.zeros(SIZE), x) for e in ENGINES]
    grad_fn = privacy.clipped_grad(entrywise, l2_clip_norm=2.0)
    total = grad_fn.zeros(jnp.zeros(SIZE))
    for part in (x[:1], x[1:8], x[8:]):
        total = total + grad_fn(jnp.zeros(SIZE), part)
    for other in (*totals[1:], total):
        assert squared_steps(totals[0], other) == 0
        for word in ("low", "high"):
            np.testing.assert_array_equal(getattr(other, word), getattr(total, word))


# Larger and smaller than what is joined to one array, between one another.
LEAVES = {"a": (3, 2), "b": (70, 70), "c": (2, 3, 5), "d": (5000,), "e": (40,)}


def of_leaves(params, x):
    """Its gradient is the example."""
    return sum(jnp.sum(params[name] * x[name]) for name in LEAVES)


def leaves(number):
    rng = np.random.default_rng(number)
    return {
        name: rng.standard_normal((number, *shape), np.float32)
        * rng.choice(np.float32([1e-3, 1.0, 30.0]), (number, *[1] * len(shape)))
        for name, shape in LEAVES.items()
    }


@every_engine
@pytest.mark.parametrize("is_carried", [True, False])
def test_a_sum_goes_on_from_the_one_before(engine, is_carried):
    """Whatever the parts, their order, and whether its low words were carried."""
    params = {name: jnp.zeros(shape) for name, shape in LEAVES.items()}
    run = summing(of_leaves, engine, 2.0)
    x = leaves(13)
    each = [
        run(params, jax.tree.map(lambda a, i=i: a[i : i + 1], x)) for i in range(13)
    ]
    integers = jax.tree.map(lambda *a: sum(a), *map(grid.to_integers, each))
    for cuts in ([0, 13], [0, 1, 8, 13], [0, 4, 6, 13]):
        for order in (np.arange(13), np.arange(13)[::-1]):
            total = None
            for start, end in itertools.pairwise(cuts):
                rows = order[start:end]
                part = jax.tree.map(lambda a, rows=rows: a[rows], x)
                if total is not None and not is_carried:
                    # As sums of words are, of as many as may be.
                    low = jax.tree.map(lambda a: a + 2046 * 2**20, total.low)
                    high = jax.tree.map(lambda a: a - 2046, total.high)
                    total = grid.ExactSum(low, high, total.spacing)
                total = run(params, part, total=total)
            jax.tree.map(
                np.testing.assert_array_equal, grid.to_integers(total), integers
            )
            for low in jax.tree.leaves(total.low):
                assert np.all((low >= 0) & (low < 2**20))
    assert is_within(squared_steps(each[0]), each[0], 2.0)


@every_engine
def test_what_is_added_to_must_be_a_sum_of_the_same_grid(engine):
    run = privacy.clipped_grad(entrywise, l2_clip_norm=2.0, **ENGINES[engine])
    other = privacy.clipped_grad(entrywise, l2_clip_norm=1.0).zeros(jnp.zeros(SIZE))
    with pytest.raises(InputError, match="allowed: sums of one clip norm"):
        run(jnp.zeros(SIZE), jnp.ones((3, SIZE)), total=other)
    floats = jnp.zeros(SIZE)
    for wrong in (run.zeros(jnp.zeros(1)), run.zeros({"w": floats}), floats):
        with pytest.raises(InputError, match="allowed: what an earlier call returned"):
            run(jnp.zeros(SIZE), jnp.ones((3, SIZE)), total=wrong)


@pytest.mark.parametrize("rows", [1, 2, grid.SHORT, grid.SHORT + 1, 300])
@pytest.mark.parametrize("sign", [-1, 1, 0])
def test_integers_of_any_size_are_added_within_32_bits(rows, sign):
    """The largest ones, on top of the largest words that a carry leaves."""
    most = 2**29 - 1
    rng = np.random.default_rng(rows)
    added = rng.integers(-most, most, (rows, 64)) if sign == 0 else sign * most
    added = np.broadcast_to(np.asarray(added, np.int64), (rows, 64))
    for start in (-(2**50), -1, 0, 2**20 - 1, 2**50):
        words = grid.from_integers(np.full(64, start), 1.0)
        low, high = words.low, words.high
        for _ in range(3):  # without a carry by the caller in between
            low, high = grid.add_integers(low, high, jnp.asarray(added, jnp.int32))
        found = grid.ExactSum(low, high, 1.0)
        expected = start + 3 * added.sum(axis=0)
        np.testing.assert_array_equal(grid.to_integers(found), expected)
        carried = found.normalized()
        np.testing.assert_array_equal(grid.to_integers(carried), expected)
        assert np.all((carried.low >= 0) & (carried.low < 2**20))


def test_one_word_alone_depends_on_a_few_integers():
    """A compiler may work them out, with their roundings, once for each that does."""

    def dependent(rows):
        jaxpr = jax.make_jaxpr(grid.add_integers)(
            *2 * [jnp.zeros(4, jnp.int32)], jnp.ones((rows, 4), jnp.int32)
        )
        known = {jaxpr.jaxpr.invars[2]}
        for eqn in jaxpr.eqns:
            if known & {v for v in eqn.invars if not hasattr(v, "val")}:
                known |= set(eqn.outvars)
        return [v in known for v in jaxpr.jaxpr.outvars]

    assert dependent(grid.SHORT) == [True, False]
    assert dependent(grid.SHORT + 1) == [True, True]


def test_words_have_room_for_a_million_vectors():
    """As many times the clip norm, added one by one, without a wrap."""
    one = exact(jnp.array([1.0, -1.0]))
    (total, _), _ = jax.lax.scan(
        lambda c, _: ((c[0] + c[1], c[1]), None), (one, one), length=2**20 - 1
    )
    each = grid.to_integers(one)
    np.testing.assert_array_equal(grid.to_integers(total), each * 2**20)


@pytest.mark.parametrize("factor", [0, 1, 511, 2**13])
def test_multiply_add_is_integer_arithmetic(factor):
    rng = np.random.default_rng(0)
    numbers = rng.integers(-(2**37), 2**37, 1000)
    more = rng.integers(-(2**17), 2**17, 1000)
    words = grid.from_integers(numbers, 1.0)
    low, high = grid.multiply_add(
        factor, words.low, words.high, jnp.asarray(more, jnp.int32)
    )
    found = grid.to_integers(grid.ExactSum(low, high, 1.0))
    np.testing.assert_array_equal(found, factor * numbers + more)


@pytest.mark.parametrize("size", [1, 16, 17, 1000, 70_001])
def test_squares_are_not_summed_too_short(size):
    rng = np.random.default_rng(size)
    rows = np.exp2(rng.uniform(-20, 3, (3, size))).astype(np.float32)
    found, roundings = (
        jax.jit(lambda x: norms.squared_norms([x])[0])(rows),
        norms.squared_norms([jnp.asarray(rows)])[1],
    )
    exact_squares = [math.fsum(float(x) ** 2 for x in row) for row in rows]
    error = np.abs(np.float64(found) / exact_squares - 1).max()
    assert error <= roundings * 2.0**-24
    assert roundings < 100


def test_compilers_keep_the_nesting_of_sums():
    """One long sum would be off by thousands of roundings."""
    compiled = jax.jit(lambda x: norms.squared_norms([x])[0]).lower(
        jnp.ones((4, 2**16))
    )
    text = compiled.compile().as_text()
    sizes = [
        line for line in text.splitlines() if " reduce(" in line and "= f32" in line
    ]
    assert len(sizes) >= 4


def test_a_grid_has_the_steps_that_the_accountant_counts_on():
    for clip in (2.0**-60, 1e-3, 1.0, 1.999999, 2.0, 2.0**60):
        found = grid.grid_of(clip)
        assert 2**28 <= clip / found.spacing < 2**29
    for clip in (2.0**-61, 2.0**61, 1e-30):
        with pytest.raises(InputError, match="allowed: 2\\^-60 to 2\\^60, or infinity"):
            privacy.clipped_grad(linear, l2_clip_norm=clip)


def test_exact_sum_is_the_sum_of_clipped_vectors():
    vectors = {"a": jnp.array([[3.0, 0.0], [0.1, 0.2]]), "b": jnp.array([4.0, 0.2])}
    total = privacy.exact_sum(vectors, l2_clip_norm=1.0)
    np.testing.assert_allclose(total.to_float()["a"], [0.7, 0.2], rtol=1e-5)
    np.testing.assert_allclose(total.to_float()["b"], 1.0, rtol=1e-5)
    masked = privacy.exact_sum(
        vectors, l2_clip_norm=1.0, is_padding_example=np.array([True, False])
    )
    np.testing.assert_allclose(masked.to_float()["b"], 0.2, rtol=1e-5)


def test_sums_of_different_clip_norms_are_not_added():
    with pytest.raises(InputError, match="allowed: sums of one clip norm"):
        exact(jnp.ones(2), 1.0) + exact(jnp.ones(2), 8.0)


@pytest.mark.parametrize("mask", [[0, 2, 0], [0.0, 1.0, 0.0], ["0", "1", "0"]])
def test_masks_that_are_no_booleans_are_refused(mask):
    grad_fn = privacy.clipped_grad(linear, l2_clip_norm=1.0)
    with pytest.raises(InputError, match="allowed: an array of booleans"):
        grad_fn(jnp.zeros(2), jnp.ones((3, 2)), is_padding_example=np.array(mask))


def test_float64_parameters_are_refused():
    grad_fn = privacy.clipped_grad(linear, l2_clip_norm=1.0)
    with (
        jax.enable_x64(True),
        pytest.raises(InputError, match="type float64; allowed: float32 or narrower"),
    ):
        grad_fn(jnp.zeros(2, jnp.float64), jnp.ones((3, 2)))


def test_forgotten_batch_arguments_are_warned_of():
    def fun(w, x, y):
        return jnp.mean((jnp.vdot(w, x) - y) ** 2)

    x, y = jnp.ones((8, 2)), jnp.zeros(8)
    with pytest.warns(UserWarning, match="argument 2 .* batch_argnums"):
        privacy.clipped_grad(fun, l2_clip_norm=1.0)(jnp.zeros(2), x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        privacy.clipped_grad(fun, l2_clip_norm=1.0, batch_argnums=(1, 2))(
            jnp.zeros(2), x, y
        )


@custom_vmap
def centred(h):
    return h


@centred.def_vmap
def _centred_batch(axis_size, in_batched, h):
    del axis_size, in_batched
    return h - h.mean(0, keepdims=True), True


@every_engine
def test_examples_that_see_each_other_are_refused(engine):
    grad_fn = privacy.clipped_grad(
        lambda w, x: jnp.vdot(w, jax.lax.stop_gradient(centred(x))),
        l2_clip_norm=1.0,
        **ENGINES[engine],
    )
    with pytest.raises(InputError, match="custom_vmap"):
        grad_fn(jnp.zeros(4), jnp.ones((6, 4)))


def test_every_noised_value_is_possible_under_neighbours():
    """The noise is a difference of integers within the table's reach, whatever the sum.

    Float32 noise has gaps near 0, by which one noised sum told two data sets apart.
    """
    tx = privacy.gaussian_noise(1.0, privacy.new_noise_key())
    size = 4000
    sums = [exact(jnp.full(size, x)) for x in (0.001, 0.0017)]
    noised, _ = tx.update(sums[0], tx.init(None))
    steps = np.round(np.float64(noised) / sums[0].spacing)
    for total in sums:
        noise = steps - grid.to_integers(total)
        assert np.abs(noise).max() < 9 * 2**28
    # Near 0 float32 shows every grid step, odd and even ones alike.
    near = steps[np.abs(steps) < 2**24]
    assert len(near) > 100
    assert 0.3 < np.mean(near % 2) < 0.7


def test_errors_of_published_sizes_change_no_decimal():
    """1.75 million weights, 10,000 steps; 862 million weights, 3,000 steps."""
    for coordinates, steps in ((1_750_000, 10_000), (862_000_000, 3_000)):
        found = bounds.errors([(1.0, coordinates, steps)])
        assert found.epsilon < 5e-6
        assert found.delta * math.exp(10) < 1e-14


def test_a_random_number_of_runs_keeps_below_its_bound():
    from scipy import stats

    for mean in (1.5, 10.0, 300.0):
        limit = bounds.most_runs(mean, math.inf)
        assert stats.poisson.logsf(limit, mean) < -100 * math.log(2)
        gamma = 1 / mean  # geometric
        assert limit > mean
        limit = bounds.most_runs(mean, 1.0)
        assert limit * math.log1p(-gamma) < -100 * math.log(2)
    assert bounds.most_runs(1.0, 0.5) == 1.0


@pytest.mark.parametrize("together", [1, 3, 4, 256])
def test_how_many_are_added_at_once_does_not_matter(together, monkeypatch):
    x = jax.random.normal(jax.random.key(1), (11, SIZE))
    expected = privacy.exact_sum(x, l2_clip_norm=2.0)
    monkeypatch.setattr(arithmetic, "_CPU_TOGETHER", together)
    assert squared_steps(privacy.exact_sum(x, l2_clip_norm=2.0), expected) == 0
