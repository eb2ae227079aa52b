"""The logical step on a problem small enough to do by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from dpdm_jax.privacy import gaussian_noise, new_noise_key, normalize_by
from dpdm_jax.training.state import create_state
from dpdm_jax.training.step import DATA_AXIS, make_train_step


def loss(params, fixed, example, key):
    """Gradient: minus the image's first pixel, scaled by the label."""
    del fixed, key
    return -example["condition"] * example["image"][0, 0, 0] * params["w"][0]


def build(stddev=0.0, clip=1.0, rate=0.5):
    noise = gaussian_noise(stddev, new_noise_key())
    optimizer = optax.sgd(rate)
    step = make_train_step(
        loss,
        optimizer,
        noise,
        normalize_by(4.0),
        Mesh(np.array(jax.devices()), (DATA_AXIS,)),
        l2_clip_norm=clip,
        ema_decay=0.999,
    )
    state = create_state({"w": jnp.zeros(1)}, optimizer, noise)
    # A copy each time: steps give their states' memory away.
    return step, lambda: jax.tree.map(lambda x: x.copy(), state)


def batch(pixels, is_padding=None):
    n = len(pixels)
    images = jnp.asarray(pixels, jnp.float32).reshape(n, 1, 1, 1)
    padding = jnp.zeros(n, bool) if is_padding is None else jnp.asarray(is_padding)
    examples = {"image": images, "condition": jnp.ones(n, jnp.int32)}
    return examples, padding, jnp.arange(n)


def run(step, state, *batches):
    partial, key = step.start(state.params), jax.random.key(0)
    for arrays in batches:
        partial = step.accumulate(partial, state.params, {}, *arrays, key)
    return step.finish(state, partial)


def test_one_step_by_hand():
    step, first_state = build()
    # Gradients -0.5, -3 (clipped to -1), padding, not finite: their sum is -1.5.
    arrays = batch([0.5, 3.0, 9.0, np.nan], [False, False, True, False])
    state, sums = run(step, first_state(), arrays)
    np.testing.assert_allclose(state.params["w"], [0.5 * 1.5 / 4], rtol=1e-5)
    # The first update of the average has decay 2/11 and starts from 0.
    np.testing.assert_allclose(
        state.ema_params["w"], 9 / 11 * state.params["w"], rtol=1e-6
    )
    assert int(state.step) == 1
    assert [float(x) for x in (sums.clipped, sums.non_finite, sums.examples)] == [
        1,
        1,
        3,
    ]
    np.testing.assert_allclose(float(sums.grad_norm), 3.5, rtol=1e-6)


def test_the_divisor_is_constant_whatever_the_batch():
    moves = []
    step, first_state = build()
    for pixels in ([0.5], [0.5, 0.5], []):
        batches = [batch(pixels)] if pixels else []
        moves.append(float(run(step, first_state(), *batches)[0].params["w"][0]))
    np.testing.assert_allclose(moves, [0.5 * 0.5 / 4, 0.5 * 1.0 / 4, 0.0], rtol=1e-6)


@pytest.mark.slow
def test_noise_goes_on_once_a_logical_step():
    """Not once a micro-batch: the spread must not grow with their number."""
    # So that the move is the noised sum.
    step, first_state = build(stddev=2.0, rate=4.0)
    arrays = batch([0.0])
    for count in (1, 8):
        moves = []
        before = first_state()
        for _ in range(400):
            w = float(before.params["w"][0])
            before, _ = run(step, before, *count * [arrays])
            moves.append(float(before.params["w"][0]) - w)
        # 400 draws: the standard deviation is within 20 % but for about 1 in 10^8;
        # noise in each of eight micro-batches would be 183 % off.
        assert abs(np.std(moves) / 2.0 - 1) < 0.2
