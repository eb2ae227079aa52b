"""The programs that users run on accelerators lower for them, seen from a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.diffusion import from_config, samplers
from dpdm_jax.models.model import build_model
from dpdm_jax.padding import blank_examples
from dpdm_jax.privacy import gaussian_noise, new_noise_key, normalize_by
from dpdm_jax.training.optimizer import build_optimizer
from dpdm_jax.training.state import create_state
from dpdm_jax.training.step import DATA_AXIS, make_train_step

pytestmark = pytest.mark.slow

_PLATFORMS = ("cuda", "tpu")


@pytest.fixture(scope="module")
def config():
    config = command_line.load_config("configs/mnist.py")
    config.network.ncsnpp.update(
        {"base_width": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1}
        | {"attention_resolutions": (14,)}
    )
    config.diffusion.noise_multiplicity = 2
    return config


def model_of(config, dtype):
    config.network.dtype = dtype
    return build_model(config, (28, 28, 1), of_classes(10))


def lowered(function, *arguments):
    exported = jax.export.export(function, platforms=_PLATFORMS)(*arguments)
    assert exported.platforms == _PLATFORMS
    return exported


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        ("vmap", "float32"),
        ("scan", "float32"),
        ("book_keeping", "float32"),
        ("vmap", "bfloat16"),
        ("book_keeping", "bfloat16"),
    ],
)
def test_train_step(config, engine, dtype):
    model = model_of(config, dtype)
    optimizer = build_optimizer(config.train, 10)
    noise = gaussian_noise(1.0, new_noise_key())
    step = make_train_step(
        model.trained_loss(),
        optimizer,
        noise,
        normalize_by(4.0),
        Mesh(np.array(jax.devices()[:1]), (DATA_AXIS,)),
        l2_clip_norm=1.0,
        ema_decay=0.999,
        engine=engine,
    )

    def whole(state, examples, is_padding, positions, key):
        partial = step.start(state.params)
        partial = step.accumulate(
            partial, state.params, {}, examples, is_padding, positions, key
        )
        return step.finish(state, partial)

    state = jax.eval_shape(
        lambda params: create_state(params, optimizer, noise), model.shapes
    )
    batch = (
        blank_examples(model.example, 4),
        jnp.zeros(4, bool),
        jnp.arange(4),
        jax.random.key(0),
    )
    exported = lowered(jax.jit(whole), state, *batch)
    assert ("bf16" in exported.mlir_module()) == (dtype == "bfloat16")
    assert len(exported.out_avals) > len(jax.tree.leaves(model.shapes))


@pytest.mark.parametrize(
    ("preset", "dtype"),
    [("ddim", "float32"), ("acc", "float32"), ("ddim", "bfloat16")],
)
def test_sampling(config, preset, dtype):
    model = model_of(config, dtype)
    config.sampler.preset = preset
    sampler = from_config.sampler(from_config.with_preset(config))

    def sample(params, start, labels, key):
        def draw_noise(step):
            return jax.random.normal(jax.random.fold_in(key, step), start.shape)

        return samplers.sample(
            sampler,
            lambda x, sigma: model.denoise(params, x, sigma, labels),
            start,
            draw_noise,
        )

    start = jnp.zeros((2, 28, 28, 1))
    labels = jnp.zeros(2, jnp.int32)
    exported = lowered(jax.jit(sample), model.shapes, start, labels, jax.random.key(0))
    assert ("bf16" in exported.mlir_module()) == (dtype == "bfloat16")
    assert exported.out_avals[0].shape == (2, 28, 28, 1)
