"""bfloat16 is for convolutions and products; what privacy rests on is float32."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from float_sums import clipped_grad
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import gaussian_noise, new_noise_key, normalize_by
from dpdm_jax.training.optimizer import build_optimizer
from dpdm_jax.training.secrets import fixed_secrets
from dpdm_jax.training.state import create_state
from dpdm_jax.training.step import DATA_AXIS, make_train_step

pytestmark = pytest.mark.slow

SHAPE = (16, 16, 1)
NETWORKS = ["ncsnpp", "mlp", "transformer", "latent_unet"]


def make_config(
    name: str,
    dtype: str = "bfloat16",
    draws: int = 16,
    attention_factors: tuple[int, ...] = (1,),
):
    config = command_line.load_config("configs/mnist.py")
    config.network.name = name
    config.network.dtype = dtype
    small = {"base_width": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    config.network.ncsnpp.update(small | {"attention_resolutions": (8,)})
    config.network.mlp.update({"num_blocks": 1})
    config.network.transformer.update({"base_width": 8, "hidden_width": 32})
    config.network.latent_unet.update(
        base_channels=32,
        channel_multipliers=(1,),
        num_res_blocks=1,
        attention_factors=attention_factors,
        num_heads=2,
        context_width=8,
    )
    config.diffusion.noise_multiplicity = draws
    return config


def loss_and_params(name: str, dtype: str = "bfloat16", draws: int = 16, **options):
    config = make_config(name, dtype, draws, **options)
    model = build_model(config, SHAPE, of_classes(10))
    params = model.init(jax.random.key(0))
    # Away from the start, where almost no gradient passes the blocks.
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    awake = [
        np.asarray(p) + np.float32(0.1) * rng.normal(size=p.shape).astype(np.float32)
        for p in leaves
    ]
    return model.loss(), structure.unflatten(awake)


def examples(n: int):
    images = jax.random.randint(jax.random.key(1), (n, *SHAPE), 0, 256, jnp.uint8)
    some = {"image": images, "condition": np.arange(n, dtype=np.int32) % 10}
    return some, jax.random.split(jax.random.key(2), n)


def first(batch):
    return jax.tree.map(lambda x: x[0], batch)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def gradient_equations(name: str):
    loss, params = loss_and_params(name)
    arguments = (params, *first(examples(1)))
    return list(equations(jax.make_jaxpr(jax.grad(loss))(*arguments)))


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_bfloat16_and_statistics_float32(name):
    seen = set()
    for equation in gradient_equations(name):
        kind = equation.primitive.name
        dtypes = {v.aval.dtype for v in equation.invars}
        if kind in ("dot_general", "conv_general_dilated"):
            assert dtypes == {jnp.dtype(jnp.bfloat16)}, equation
        elif kind in ("exp", "rsqrt"):  # softmax, normalisation
            assert dtypes == {jnp.dtype(jnp.float32)}, equation
        elif kind == "reduce_sum":
            (summed,) = equation.invars
            terms = math.prod(summed.aval.shape[a] for a in equation.params["axes"])
            # An upsampled pixel becomes four.
            assert terms <= 4 or summed.aval.dtype == jnp.float32, equation
        seen.add(kind)
    assert {"dot_general", "rsqrt", "reduce_sum"} <= seen
    assert name == "mlp" or "exp" in seen  # the softmax
    assert ("conv_general_dilated" in seen) == (name in ("ncsnpp", "latent_unet"))


# The latent U-Net's are compared by way of a step.
@pytest.mark.parametrize("name", NETWORKS[:-1])
def test_gradients_agree_with_float32(name):
    gradients = []
    for dtype in ("float32", "bfloat16"):
        loss, params = loss_and_params(name, dtype)
        gradients.append(jax.jit(jax.grad(loss))(params, *first(examples(1))))
    assert_close(*gradients)


def assert_close(exact, rounded):
    """Gradients, or what follows from them, in float32 and by way of bfloat16."""
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    exact, rounded = jax.device_get((exact, rounded))
    whole = math.sqrt(sum(float(np.sum(g**2)) for g in jax.tree.leaves(exact)))
    errors = jax.tree.map(lambda a, b: float(np.linalg.norm(a - b)), exact, rounded)
    total = math.sqrt(sum(e**2 for e in jax.tree.leaves(errors)))
    # A number in bfloat16 is off by up to 0.4 %.
    assert 1e-4 < total / whole < 0.05
    for (path, g), error in zip(
        jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(errors), strict=True
    ):
        # Below a thousandth of the whole there is mostly rounding.
        limit = 0.15 * float(np.linalg.norm(g)) + 1e-3 * whole
        assert error < limit, jax.tree_util.keystr(path)


@functools.cache
def gradients_one_by_one():
    """Of the perceptron and five examples: vectors in float64."""
    loss, params = loss_and_params("mlp")
    of_one = jax.jit(jax.grad(loss))
    batch = jax.device_get(examples(5)[0]), examples(5)[1]
    found = []
    for i in range(5):
        example = jax.tree.map(lambda x, i=i: x[i], batch)
        leaves = jax.tree.leaves(of_one(params, *example))
        found.append(np.concatenate([np.ravel(x).astype(np.float64) for x in leaves]))
    return found


@pytest.mark.parametrize(
    "engine",
    [
        {"engine": "vmap"},
        {"engine": "scan", "microbatch_size": 2},
        {"engine": "book_keeping"},
    ],
)
def test_clipping_is_float32(engine):
    """The sum is that of the examples' gradients, clipped and added up exactly."""
    loss, params = loss_and_params("mlp")
    batch = examples(5)
    clip = 0.1
    grad_fn = clipped_grad(
        loss,
        l2_clip_norm=clip,
        prng_argnum=2,
        return_grad_norms=True,
        **engine,
    )
    run = jax.jit(grad_fn.fun)
    total, aux = run(params, *batch, is_padding_example=np.zeros(5, bool))
    gradients = gradients_one_by_one()
    norms = [np.linalg.norm(flat) for flat in gradients]
    expected = sum(
        flat * min(1.0, clip / norm)
        for flat, norm in zip(gradients, norms, strict=True)
    )
    assert min(norms) > clip  # the test is about clipped ones
    # Products of other shapes may round some bfloat16 numbers differently.
    np.testing.assert_allclose(aux.grad_norms, norms, rtol=2e-3)
    got = np.concatenate([np.ravel(x) for x in jax.tree.leaves(total)])
    assert got.dtype == np.float32
    assert np.linalg.norm(got - expected) < 1e-2 * np.linalg.norm(expected)
    # An example contributes the clip norm to the last digits of float32; a norm, factor
    # or sum in bfloat16 would miss it in the third.
    single, _ = run(params, *batch, is_padding_example=np.arange(5) > 0)
    norm = math.sqrt(sum(float(np.sum(np.square(g))) for g in jax.tree.leaves(single)))
    assert norm == pytest.approx(clip, rel=1e-5)
    assert norm <= clip * (1 + 1e-7)  # but for the float32 view


def test_a_step_keeps_everything_float32():
    config = make_config("mlp")
    loss, params = loss_and_params("mlp")
    optimizer = build_optimizer(config.train, 10)
    noise = gaussian_noise(0.1, new_noise_key())
    step = make_train_step(
        lambda params, fixed, *example: loss(params, *example),
        optimizer,
        noise,
        normalize_by(4.0),
        Mesh(np.array(jax.devices()[:1]), (DATA_AXIS,)),
        l2_clip_norm=1.0,
        ema_decay=0.999,
    )
    state = create_state(params, optimizer, noise)
    some, _ = examples(4)
    arrays = (some, jnp.zeros(4, bool), jnp.arange(4), jax.random.key(0))

    def logical_step(state):
        partial = step.accumulate(step.start(state.params), state.params, {}, *arrays)
        return partial, *step.finish(state, partial)

    partial, *rest = jax.eval_shape(logical_step, state)
    assert {x.dtype for x in jax.tree.leaves(partial.total)} == {jnp.dtype("int32")}
    kept = [state, partial.counts, *rest]
    floating = {
        leaf.dtype
        for leaf in jax.tree.leaves(kept)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    assert floating == {jnp.dtype(jnp.float32)}
    # After the gradients, which end in the clipping, no number is rounded to bfloat16.
    finish = jax.make_jaxpr(step.finish)(state, jax.eval_shape(logical_step, state)[0])
    assert "bf16" not in str(finish)


def test_a_private_step_of_the_latent_unet_agrees_with_float32():
    """The change of the weights by one step, clipped and with the same noise."""
    changes = []
    for dtype in ("float32", "bfloat16"):
        # Attention in the middle alone.
        loss, params = loss_and_params(
            "latent_unet", dtype, draws=2, attention_factors=()
        )
        optimizer = optax.sgd(1.0)
        key = fixed_secrets(0).noise_key
        noise = gaussian_noise(1e-4, key)
        step = make_train_step(
            lambda params, fixed, *example, loss=loss: loss(params, *example),
            optimizer,
            noise,
            normalize_by(2.0),
            Mesh(np.array(jax.devices()[:1]), (DATA_AXIS,)),
            l2_clip_norm=0.5,
            ema_decay=0.999,
            engine="vmap",
        )
        state = create_state(params, optimizer, noise)
        arrays = (examples(2)[0], jnp.zeros(2, bool), jnp.arange(2), jax.random.key(0))
        partial = step.accumulate(step.start(state.params), state.params, {}, *arrays)
        before = jax.device_get(params)
        state, sums = step.finish(state, partial)
        assert sums.clipped == sums.examples == 2
        changes.append(
            jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
        )
    assert_close(*changes)
