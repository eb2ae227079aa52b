"""Every engine against the reference, on losses of many shapes and on real models."""

import functools
import math

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import clipped_grad

from dpdm_jax import networks
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import base
from dpdm_jax.diffusion.denoiser import make_denoiser
from dpdm_jax.diffusion.losses import make_loss
from dpdm_jax.diffusion.noise_levels import LogNormal
from dpdm_jax.diffusion.parameterizations import EDM
from dpdm_jax.privacy.clipping import LossTraits, auto, book_keeping, choose_engine

ENGINES = {
    "vmap": {"engine": "vmap"},
    "scan of 3": {"engine": "scan", "microbatch_size": 3},
    "book-keeping": {"engine": "book_keeping"},
    "book-keeping of 4": {"engine": "book_keeping", "microbatch_size": 4},
}
BATCH = 7
NORMAL = jax.random.normal(jax.random.key(0), (BATCH, 4, 3))
MATRIX = jax.random.normal(jax.random.key(1), (3, 3))
VECTOR = jnp.array([0.5, -1.0, 2.0])


@pytest.fixture(params=[book_keeping.GROUP_BYTES, 0], ids=["wide", "narrow"])
def chunks(request, monkeypatch):
    """All gradients of a layer at once, and one example's at a time."""
    monkeypatch.setattr(book_keeping, "GROUP_BYTES", request.param)


def assert_trees_close(actual, expected, rtol=1e-5):
    """Equal up to ``rtol`` of the largest entry."""
    leaves = [np.abs(x).max(initial=0.0) for x in jax.tree.leaves(expected)]
    check = functools.partial(
        np.testing.assert_allclose, rtol=0, atol=rtol * max(leaves)
    )
    jax.tree.map(check, actual, expected)


def jit(fun):
    # The cheapest compilation: these functions run a few times.
    return jax.jit(fun, compiler_options={"xla_backend_optimization_level": 0})


def per_example(fun, batch):
    """``(params, *batch) -> losses, gradients``, by ``vmap``, compiled."""
    over_batch = (None, *(0 for _ in batch))
    return jit(jax.vmap(jax.value_and_grad(fun), over_batch))


def reference(fun, params, batch):
    """Losses, gradients and their norms; NumPy arrays."""
    return with_norms(per_example(fun, batch)(params, *batch))


def with_norms(result):
    values, grads = jax.device_get(result)
    rows = [np.float64(g).reshape(len(g), -1) for g in jax.tree.leaves(grads)]
    with np.errstate(over="ignore"):  # the squares are to exist in float32
        squares = np.float32(np.sum(np.concatenate(rows, axis=1) ** 2, axis=1))
    return values, grads, np.sqrt(squares)


def clipped_sum(grads, norms, clip, counts):
    factors = np.where(counts, np.minimum(1.0, clip / (norms + 1e-6)), 0.0)
    grads = jax.tree.map(lambda g: np.float64(g[counts]), grads)
    return jax.tree.map(lambda g: np.tensordot(factors[counts], g, 1), grads)


def compiled(fun, num_batch_args, clip, **options):
    """``(params, *batch, is_padding_example) -> sum, aux``."""
    grad_fn = clipped_grad(
        fun,
        l2_clip_norm=clip,
        batch_argnums=tuple(range(1, 1 + num_batch_args)),
        return_values=True,
        return_grad_norms=True,
        **options,
    )
    return jit(grad_fn)


def run(fun, params, batch, clip, padding=None, **options):
    clipped = compiled(fun, len(batch), clip, **options)
    return clipped(params, *batch, is_padding_example=padding)


def assert_is_clipped_sum(result, expected, clip, padding=None, rtol=1e-5):
    total, aux = result
    values, grads, norms = expected
    finite = np.isfinite(norms)
    counts = finite if padding is None else finite & ~padding
    assert_trees_close(total, clipped_sum(grads, norms, clip, counts), rtol)
    # What nobody adds need not be measured.
    asked = np.ones_like(finite) if padding is None else ~padding
    np.testing.assert_array_equal(np.isfinite(aux.grad_norms)[asked], finite[asked])
    measured = finite & asked
    np.testing.assert_allclose(aux.grad_norms[measured], norms[measured], rtol=rtol)
    np.testing.assert_allclose(aux.values, values, rtol=rtol)


def median_norm(norms):
    """A clip norm that shortens some gradients and leaves others."""
    return float(np.median(norms[np.isfinite(norms)])) or 1.0


@jax.custom_vjp
def shortened(x):
    """The identity, whose backward rule is not linear: its gradient has norm 1."""
    return x


def _shortened_backward(_, ct):
    return (ct / jnp.sqrt(jnp.sum(ct**2) + 1e-12),)


shortened.defvjp(lambda x: (x, None), _shortened_backward)


@jax.custom_vjp
def product_with_own_rule(x, w):
    return x @ w


product_with_own_rule.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda xw, ct: (ct @ xw[1].T, 5.0 * jnp.sign(xw[0].T @ ct)),
)


@jax.custom_jvp
def scaled(x, w):
    return x * w


@scaled.defjvp
def _scaled_jvp(primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    return x * w, dx * w + 2.0 * x * dw  # twice the true one


def scan_over_layers(params, x):
    return jnp.sum(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params)[0])


def branch_by_example(params, x):
    a, b = params
    pick = jnp.int32(x[0, 0] > 0) + jnp.int32(x[0, 1] > 0)
    branches = [lambda x: x @ a, lambda x: x @ b, lambda x: x @ (a * b)]
    return jnp.sum(jnp.tanh(jax.lax.switch(pick, branches, x)))


def by_platform(w, x):
    y = jax.lax.platform_dependent(
        x, w, cpu=product_with_own_rule, default=lambda x, w: x @ w
    )
    return jnp.sum(y**2)


def dropout(w, x):
    key = jax.random.key(jnp.int32(100 * x[0, 0]))
    keep = jax.random.bernoulli(key, jax.nn.sigmoid(w), w.shape)
    return jnp.sum(jnp.where(keep, w, 0.0) @ x.T) + jnp.sum(jax.random.normal(key) * w)


PAIR = {"a": MATRIX, "b": VECTOR}
# name: (loss, parameters); the example is NORMAL[i], [4, 3].
LOSSES = {
    "twice in one equation": (lambda w, x: jnp.sum((x @ (w * w)) ** 2), MATRIX),
    "matrix and transpose": (lambda w, x: jnp.sum(jnp.tanh(x @ w @ w.T)), MATRIX),
    "site feeds site": (lambda w, x: jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w)), MATRIX),
    "both operands": (lambda w, x: jnp.sum(jnp.outer(w[0], x[0] * w[0])), MATRIX),
    "two views": (lambda w, x: jnp.sum(x @ w.T) + w.reshape(9) @ x.ravel()[:9], MATRIX),
    "slices": (lambda w, x: jnp.sum((x @ w[0]) * (x @ w[1])), MATRIX),
    "normalised": (
        lambda w, x: jnp.sum(jnp.exp(x @ (w / jnp.linalg.norm(w)))),
        MATRIX,
    ),
    "two leaves in a product": (
        lambda p, x: jnp.sum(jnp.tanh(x @ (p["a"] * p["b"]))),
        PAIR,
    ),
    "scale and bias": (
        lambda p, x: jnp.sum(jnp.sin(x * p["b"] + p["a"][0]) * p["b"]),
        PAIR,
    ),
    "weight decay": (
        lambda p, x: jnp.sum(jnp.tanh(x @ p["a"])) + jnp.sum(p["a"] ** 2 * p["b"]),
        PAIR,
    ),
    "example only shifts": (lambda p, x: x[0, 0] + jnp.sum(p["a"] @ p["b"]), PAIR),
    "example does not matter": (lambda p, x: jnp.sum(p["a"] @ p["b"]), PAIR),
    "parameter itself": (lambda w, x: w, jnp.float32(3.0)),
    "parameters do not matter": (lambda p, x: jnp.sum(x), PAIR),
    "one leaf unused": (lambda p, x: jnp.sum(x @ p["a"]), PAIR),
    "stop_gradient": (
        lambda w, x: jnp.sum(x @ w + x @ jax.lax.stop_gradient(w)),
        MATRIX,
    ),
    "comparison": (lambda w, x: jnp.sum(jnp.where(x > w[0], x * w[1], 2.0)), MATRIX),
    "argmax of a parameter": (lambda p, x: x[jnp.argmax(p["b"])] @ p["b"], PAIR),
    "gather": (lambda w, x: jnp.sum(w[jnp.int32(x[:, 0] > 0)] * x), MATRIX),
    "sorted": (lambda w, x: jnp.sort(x[0] * w[0]) @ w[1], MATRIX),
    "scan over layers": (scan_over_layers, jnp.stack([MATRIX, -MATRIX])),
    "branch by example": (branch_by_example, (MATRIX, MATRIX.T)),
    "remat": (
        lambda w, x: jnp.sum(jax.checkpoint(lambda x: jnp.tanh(x @ w) @ w)(x)),
        MATRIX,
    ),
    "nested jit": (
        lambda p, x: jnp.sum(
            jax.jit(lambda a, x: jax.jit(jnp.matmul)(x, a) + p["b"])(p["a"], x) ** 2
        ),
        PAIR,
    ),
    "by platform": (by_platform, MATRIX),
    "random": (dropout, MATRIX),
    "convolution": (
        lambda w, x: jnp.sum(
            jnp.tanh(
                jax.lax.conv_general_dilated(x.T[None], w[None], (1,), "SAME")
                + jnp.mean(w)
            )
        ),
        MATRIX,
    ),
    "one row": (lambda w, x: jnp.sum(jnp.tanh(x[0] @ w)), MATRIX),
    "one row, transposed": (lambda w, x: jnp.sum(jnp.tanh(w @ x[0])), MATRIX),
    "one row, two axes": (
        lambda w, x: jnp.sum(jnp.tanh(jnp.einsum("ij,jik->k", x, w))),
        jax.random.normal(jax.random.key(2), (3, 4, 2)),
    ),
    "one row, reshaped": (
        lambda w, x: jnp.sum(jnp.tanh(x[:1] @ w.T.reshape(3, 6))),
        jax.random.normal(jax.random.key(2), (2, 9)),
    ),
    "own jvp rule": (lambda w, x: jnp.sum(scaled(x, w[0]) ** 2), MATRIX),
    "own vjp rule, not linear, on the way": (
        lambda w, x: jnp.sum(shortened(x @ w) @ w),
        MATRIX,
    ),
    "own vjp rule, not linear, of a parameter": (
        lambda w, x: jnp.sum(x @ shortened(w)),
        MATRIX,
    ),
    "own vjp rule, not linear, with an example": (
        lambda w, x: jnp.sum(product_with_own_rule(x, w) ** 2),
        MATRIX,
    ),
}


@functools.cache
def reference_of(name):
    return reference(*LOSSES[name], (NORMAL,))


@pytest.mark.slow
@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("name", LOSSES)
def test_book_keeping_agrees_on_a_loss(name):
    expected = reference_of(name)
    clip = median_norm(expected[2])
    result = run(*LOSSES[name], (NORMAL,), clip, engine="book_keeping")
    assert_is_clipped_sum(result, expected, clip)


def test_gradient_of_while_loop_is_refused_as_by_jax():
    def fun(w, x):
        return jax.lax.while_loop(lambda h: h < 3.0, lambda h: h * w, jnp.sum(x**2))

    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        run(fun, jnp.float32(2.0), (NORMAL,), 1.0, engine="book_keeping")


@pytest.mark.slow
@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("name", ["matrix and transpose", "one row", "convolution"])
def test_rejected_examples_leave_no_trace(name):
    fun, params = LOSSES[name]
    padding = np.arange(BATCH) == 2
    x = np.array(NORMAL)
    x[0], x[1, 0], x[4], x[2] = np.nan, np.inf, 1e30, -np.inf
    without_slope = np.where(np.arange(BATCH)[:, None, None] == 5, np.float32(0), x)

    def steep(params, x):  # of finite value and infinite slope at zero
        return fun(params, x) + jnp.sqrt(jnp.abs(x[0, 0]) * jnp.sum(params) ** 2)

    one_by_one = per_example(steep, (x,))
    clip = median_norm(with_norms(one_by_one(params, x))[2])
    clipped = compiled(steep, 1, clip, engine="book_keeping")
    for bad in (x, without_slope):
        expected = with_norms(one_by_one(params, bad))
        result = clipped(params, bad, is_padding_example=padding)
        assert_is_clipped_sum(result, expected, clip, padding)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "group_bytes"),
    [
        ("vmap", book_keeping.GROUP_BYTES),
        ("book_keeping", book_keeping.GROUP_BYTES),
        ("book_keeping", 0),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_terms_that_cancel_do_not_lift_the_bound(
    engine, group_bytes, dtype, monkeypatch
):
    monkeypatch.setattr(book_keeping, "GROUP_BYTES", group_bytes)
    # The gradient is what rounding leaves of 2 * 64 huge rows: another order of summing
    # them would leave something else, of a norm that nobody measured.
    rows = 1e6 * jax.random.normal(jax.random.key(3), (BATCH, 64, 3))
    rows = jnp.concatenate(
        [rows, jax.random.permutation(jax.random.key(4), -rows, 1)], 1
    )

    def fun(w, x):
        x, w = x.astype(dtype), w.astype(dtype)
        return jnp.sum((x @ w) * jnp.cos(x[:, :1]))

    clipped = compiled(fun, 1, 1e-3, engine=engine)
    norms = []
    for i in range(BATCH):
        others = np.arange(BATCH) != i
        total, aux = clipped(MATRIX, rows, is_padding_example=others)
        norms.append(aux.grad_norms[i])
        assert np.linalg.norm(np.float64(total)) <= 1e-3 * (1 + 1e-5)
    assert max(norms) > 1e-3


@pytest.mark.parametrize("engine", ["vmap", "book_keeping"])
def test_rank_one_norm_outlives_the_squares_of_its_factors(engine):
    x = jnp.array([[1e-25, 0.0], [0.0, 1e25]])
    scale = jnp.array([3e25, 4e-25])
    total, aux = run(
        lambda w, x, scale: jnp.sum(x @ w) * scale,
        jnp.zeros((2, 1)),
        (x, scale),
        3.5,
        engine=engine,
    )
    np.testing.assert_allclose(aux.grad_norms, [3.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(total[:, 0], [3.0, 3.5], rtol=1e-5)


def perceptron_with_table():
    params = {
        "table": jax.random.normal(jax.random.key(5), (4, 6)),
        "w": jax.random.normal(jax.random.key(6), (16, 6)),
    }

    def apply(params, x, c_noise, label):
        hidden = x.reshape(len(x), -1) @ params["w"] + params["table"][label]
        # Tied: the same matrix leads back.
        return (jnp.tanh(hidden + c_noise[:, None]) @ params["w"].T).reshape(x.shape)

    return params, apply


def registered(**fields):
    config = base.get_config().network
    conditioned = {"base_width": 8, "hidden_width": 8, "num_blocks": 1}
    conditioned |= {"condition_gain": 2.0}
    for name in ("mlp", "mixer", "transformer"):
        config[name].update(conditioned)
    config.transformer.num_heads = 2
    config.low_frequencies.update(
        {"base_width": 8, "hidden_width": 6, "condition_gain": 2.0}
    )
    config.ncsnpp.update(
        {"base_width": 8, "channel_multipliers": (1,), "num_res_blocks": 1}
        | {"attention_resolutions": (4,)}
    )
    config.update(fields)
    network = networks.build_network(config, (4, 4, 1), of_classes(3))
    # At the start most of a network has almost no gradient, so move away from it.
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: np.array(leaf) + 0.1 * rng.standard_normal(leaf.shape, np.float32),
        network.init(jax.random.key(0)),
    )
    return params, network.apply


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, c_noise, label):
        h = nn.Conv(4, (3, 3))(x) + nn.Embed(4, 4)(label)[:, None, None]
        h = nn.GroupNorm(2)(h) * c_noise[:, None, None, None]
        return nn.Conv(1, (3, 3))(nn.silu(nn.LayerNorm()(h)))


def linen():
    module = LinenNet()
    x, label = np.zeros((1, 4, 4, 1), np.float32), np.zeros(1, np.int32)
    params = jit(module.init)(jax.random.key(0), x, np.zeros(1, np.float32), label)
    return params, module.apply


def equinox():
    """Shared weights: one layer applied twice, at two depths."""
    model = eqx.nn.Shared(
        eqx.nn.Sequential(
            [eqx.nn.Linear(16, 16, key=jax.random.key(i)) for i in range(2)]
        ),
        where=lambda m: m[1].weight,
        get=lambda m: m[0].weight,
    )
    params, static = eqx.partition(model, eqx.is_array)

    def apply(params, x, c_noise, label):
        def one(x, c_noise, label):
            tied = eqx.combine(params, static)()
            return tied(jnp.tanh(tied(x.ravel()) * c_noise + label)).reshape(x.shape)

        return jax.vmap(one)(x, c_noise, label)

    return params, apply


MODELS = {
    "table": perceptron_with_table,
    "mlp": functools.partial(registered, name="mlp"),
    "mlp in bfloat16": functools.partial(registered, name="mlp", dtype="bfloat16"),
    "ncsnpp": functools.partial(registered, name="ncsnpp"),
    "transformer": functools.partial(registered, name="transformer", patch_size=2),
    "mixer with a perceptron": functools.partial(
        registered, name="mixer", patch_size=2, low_frequencies={"count": 3}
    ),
    "linen": linen,
    "equinox": equinox,
}
# The larger ones take long to compile, so only micro-batches of two engines: those of
# "scan" are worked on by "vmap".
CASES = [("table", draws, engine) for draws in (1, 3) for engine in ENGINES] + [
    (model, 3, engine)
    for model in MODELS
    for engine in ("scan of 3", "book-keeping of 4")
    if model != "table"
]


@functools.cache
def problem(model, draws):
    """``(loss, params, batch)`` of a diffusion model; the last examples are bad."""
    params, apply = MODELS[model]()
    of_example = make_loss(
        make_denoiser(apply, EDM()),
        EDM().loss_weight,
        LogNormal(),
        noise_multiplicity=draws,
        label_dropout=0.3,
        null=3,
    )

    def loss(params, image, label, key):
        return of_example(params, {"image": image, "condition": label}, key)

    images = np.array(
        jax.random.uniform(jax.random.key(7), (BATCH, 4, 4, 1), minval=-1.0)
    )
    for i, bad in enumerate((math.nan, math.inf, 1e30)):
        images[-1 - i, 0, 0] = bad
    keys = jax.random.split(jax.random.key(8), BATCH)
    batch = (images, np.arange(BATCH, dtype=np.int32) % 3, keys)
    return loss, params, batch


@functools.cache
def reference_of_model(model, draws):
    return reference(*problem(model, draws))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "draws", "engine"), CASES)
def test_engines_agree_on_a_model(model, draws, engine):
    expected = reference_of_model(model, draws)
    finite = np.isfinite(expected[2])
    assert finite[:4].all()
    assert not finite[-1]
    clip = median_norm(expected[2])
    padding = np.arange(BATCH) == 1
    loss, params, batch = problem(model, draws)
    result = run(loss, params, batch, clip, padding, **ENGINES[engine])
    low = "bfloat16" in model
    assert {x.dtype for x in jax.tree.leaves(result[0])} == {jnp.dtype(jnp.float32)}
    assert_is_clipped_sum(result, expected, clip, padding, 2e-2 if low else 2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["table", "mlp", "linen", "equinox"])
def test_jax_privacy_agrees_on_a_model(model):
    oracle = pytest.importorskip("jax_privacy", reason="the oracle is not installed")
    loss, params, batch = problem(model, 3)
    _, _, norms = reference_of_model(model, 3)
    clip, padding = median_norm(norms), np.arange(BATCH) == 1
    settings = {"l2_clip_norm": clip, "batch_argnums": (1, 2, 3)}
    theirs = oracle.clipped_grad(loss, keep_batch_dim=False, **settings)
    expected = jit(theirs)(params, *batch, is_padding_example=padding)
    total, _ = run(loss, params, batch, clip, padding, engine="book_keeping")
    assert_trees_close(total, expected, rtol=2e-5)


def temporary_bytes(fun, params, batch, **options):
    grad_fn = clipped_grad(fun, l2_clip_norm=1.0, **options)
    compiled = jax.jit(grad_fn).lower(params, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 4])
def test_book_keeping_does_not_hold_the_batch_of_gradients(rows, monkeypatch):
    monkeypatch.setattr(book_keeping, "GROUP_BYTES", 2**16)
    params = [jnp.ones((64, 64))] * 4

    def fun(params, x):
        for w in params:
            x = jnp.tanh(x @ w)
        return jnp.sum(x)

    few, many = (
        temporary_bytes(fun, params, jnp.ones((b, rows, 64)), engine="book_keeping")
        for b in (32, 128)
    )
    gradients = 4 * 4 * 64 * 64
    assert (
        temporary_bytes(fun, params, jnp.ones((128, rows, 64)), engine="vmap")
        > 100 * gradients
    )
    # A dozen activations an example, but not its gradient.
    assert many - few < 96 * min(12 * 4 * 4 * rows * 64, gradients / 2)


MEBI = 2**18  # float32 parameters in a MiB


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("cpu", 4, 7 * MEBI), ("vmap", None)),
        (("cpu", 32, 7 * MEBI), ("scan", 4)),
        (("cpu", 9, 7 * MEBI), ("scan", 3)),
        (("gpu", 64, 7 * MEBI), ("vmap", None)),
        (("tpu", 256, 7 * MEBI), ("book_keeping", None)),
        (("cpu", 256, 7 * MEBI, 64), ("scan", 64)),
        (("gpu", 256, 7 * MEBI, 64), ("scan", 64)),
        (("gpu", 4096, 7 * MEBI, 256), ("book_keeping", 256)),
        (("cpu", 9, 30 * MEBI), ("scan", 3)),
        (("cpu", 8, 80 * MEBI), ("scan", 3)),
        (("cpu", 8, 100 * MEBI), ("scan", 2)),
        (("cpu", 8, 200 * MEBI), ("scan", 1)),
        (("cpu", 8, 2000 * MEBI), ("scan", 1)),
        (("cpu", 0, 2000 * MEBI), ("vmap", None)),
        (("gpu", 4, 0), ("vmap", None)),
    ],
)
def test_auto_follows_its_rule(arguments, expected):
    assert (auto.CPU_BYTES, auto.BYTES) == (2**25, 2**30)
    assert (auto.CPU_FEW, auto.CPU_FEW_BYTES) == (3, 2**28)
    assert choose_engine(*arguments) == expected


def traits_of(model):
    loss, params, batch = problem(model, 1)
    return auto.loss_traits(
        lambda params, *batch: (loss(params, *batch), None), params, batch
    )


@pytest.mark.slow
def test_auto_avoids_loops_where_they_are_slow():
    arguments = ("cpu", 64, 7 * MEBI)
    fast, slow = (LossTraits(slow, largest_array=1) for slow in (False, True))
    assert choose_engine(*arguments, traits=fast) == ("scan", 4)
    assert choose_engine(*arguments, traits=slow) == ("vmap", None)
    models = ("mlp", "linen", "ncsnpp")
    assert [traits_of(m).slow_in_loops for m in models] == [False, True, False]


def test_auto_takes_fewer_examples_of_large_arrays():
    assert auto.CPU_ARRAY_BYTES == 2**22
    for mebi, expected in ((0.5, 4), (1, 4), (2, 2), (3, 1), (100, 1)):
        traits = LossTraits(False, int(mebi * 2**20))
        assert choose_engine("cpu", 64, 7 * MEBI, traits=traits) == ("scan", expected)
        assert choose_engine("gpu", 64, 7 * MEBI, traits=traits) == ("vmap", None)
    assert choose_engine("cpu", 1, 7 * MEBI, traits=traits) == ("vmap", None)


def test_largest_array_of_a_loss():
    def loss(w, x):
        wide = jnp.tanh(x[:, None] * w)  # 50 x 30, inside of everything below
        return jax.lax.scan(lambda c, row: (c + row.sum(), None), 0.0, wide)[0], None

    nested = jax.jit(jax.checkpoint(loss))
    traits = auto.loss_traits(nested, jnp.ones(30), (jnp.ones((7, 50)),))
    assert traits == LossTraits(False, 4 * 50 * 30)


@pytest.mark.parametrize("engine", ["vmap", "scan", "book_keeping"])
def test_a_loss_without_parameters_has_an_empty_sum(engine):
    grad_fn = clipped_grad(lambda w, x: jnp.sum(x), l2_clip_norm=1.0, engine=engine)
    assert grad_fn({}, jnp.ones((3, 2))) == {}


def test_weights_that_are_moved_are_no_array_of_an_example():
    def loss(w, x):
        return jnp.sum(x @ w.reshape(300, 20).T[::-1].T), None

    traits = auto.loss_traits(loss, jnp.ones(6000), (jnp.ones((7, 300)),))
    assert traits == LossTraits(False, 4 * 20)


@pytest.mark.parametrize("conv", [False, True])
def test_auto_runs_what_it_chose(conv, monkeypatch):
    monkeypatch.setattr(auto, "CPU_BYTES", 2 * 4 * 9)  # two examples
    monkeypatch.setattr(auto, "CPU_FEW_BYTES", 0)
    fun, params = LOSSES["convolution" if conv else "matrix and transpose"]
    chosen = {} if conv else {"engine": "scan", "microbatch_size": 2}
    programs = [
        str(jax.make_jaxpr(clipped_grad(fun, l2_clip_norm=1.0, **o))(params, NORMAL))
        for o in ({}, {"engine": "vmap"} | chosen)
    ]
    assert programs[0] == programs[1]


# In a process of its own, since the number of devices is fixed at start.
_ON_TWO_DEVICES = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from dpdm_jax.privacy import clipped_grad

w = jax.random.normal(jax.random.key(0), (3, 2))
x = jax.random.normal(jax.random.key(1), (6, 4, 3))
fun = lambda w, x: jnp.sum(jnp.tanh(x @ w)) + jnp.sum(x[0] @ w * jnp.sum(w))
expected = clipped_grad(fun, l2_clip_norm=2.0, engine="vmap")(w, x).to_float()
mesh = Mesh(np.array(jax.devices()), ("data",))
for options in ({"engine": "vmap"}, {"engine": "scan", "microbatch_size": 2},
                {"engine": "book_keeping"}):
    grad_fn = clipped_grad(fun, l2_clip_norm=2.0, **options)
    for check in (True, False):
        total = jax.jit(jax.shard_map(
            lambda w, x: jax.lax.psum(grad_fn(w, x), "data"),
            mesh=mesh, in_specs=(P(), P("data")), out_specs=P(), check_vma=check,
        ))(w, x)
        np.testing.assert_allclose(
            total.to_float(), expected, rtol=1e-5, err_msg=f"{options}"
        )
assert len(jax.devices()) == 2
"""


@pytest.mark.slow
def test_devices_clip_their_own_examples_before_they_add_up(commands, tmp_path):
    script = tmp_path / "on_two_devices.py"
    script.write_text(_ON_TWO_DEVICES)
    flags = "--xla_force_host_platform_device_count=2"
    env = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = commands.run(module=str(script), env=env)
    assert done.returncode == 0, done.stderr
