"""What a private step of a large network holds beside its arguments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from dpdm_jax.compilation.memory import program_memory
from dpdm_jax.diffusion.parts import mean_of_parts
from dpdm_jax.privacy import gaussian_noise, new_noise_key, normalize_by
from dpdm_jax.training.step import DATA_AXIS, make_train_step

pytestmark = pytest.mark.optimized  # their programs

# Large leaves and a small one.
WIDTH, DEPTH = 256, 4
GRADIENT = 4 * (DEPTH * WIDTH**2 + WIDTH)


def loss(params, fixed, example, key, num_views):
    """K views, two at a time."""
    del fixed
    views = example + jax.random.normal(key, (num_views, WIDTH))

    def of_part(params, shared, part):
        del shared
        h = part
        for i in range(DEPTH):
            h = jnp.tanh(h @ params[f"w{i}"])
        return jnp.mean((h * params["scale"]) ** 2)

    return mean_of_parts(of_part, params, (), views.reshape(-1, 2, WIDTH))


@functools.cache
def temporaries(number, num_views, microbatch_size=1):
    """Bytes of temporary values, for some images of some views each."""
    step = make_train_step(
        functools.partial(loss, num_views=num_views),
        optax.sgd(1.0),
        gaussian_noise(1.0, new_noise_key()),
        normalize_by(4.0),
        Mesh(np.array(jax.devices()), (DATA_AXIS,)),
        l2_clip_norm=1.0,
        ema_decay=0.9,
        engine="scan",
        engine_microbatch_size=microbatch_size,
    )

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype)

    params = {f"w{i}": array(WIDTH, WIDTH) for i in range(DEPTH)}
    params["scale"] = array(WIDTH)
    compiled = step.accumulate.lower(
        jax.eval_shape(step.start, params),
        params,
        {},
        array(number, WIDTH),
        array(number, dtype=jnp.bool),
        array(number, dtype=jnp.int32),
        jax.eval_shape(lambda: jax.random.key(0)),
        # What a level changes are the kernels, not what they read and write.
    ).compile({"xla_backend_optimization_level": 0})
    memory = program_memory(compiled)
    # The sum stays where it is.
    assert memory["outputs_in_arguments"] >= 2 * GRADIENT
    return memory["temporaries"]


@pytest.mark.slow
def test_it_is_two_gradients_whatever_the_batch_and_the_views():
    """Those of the parts so far, and that of the next one."""
    few, many = temporaries(4, 2), temporaries(64, 32)
    # Losses, norms and keys of 60 images more are little.
    assert few < 2.1 * GRADIENT
    assert many < 2.1 * GRADIENT


@pytest.mark.slow
def test_it_grows_with_the_gradients_that_are_held():
    assert temporaries(4, 2, 3) > temporaries(4, 2) + GRADIENT
