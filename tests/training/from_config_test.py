"""What the optimizer's gradients are measured in."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import devices
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import PrivacyConfig, make_plan, normalize_by
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.state import create_state
from dpdm_jax.training.step import make_train_step

EXAMPLES = {
    "image": jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 1, 3)), "float32"),
    "condition": jnp.zeros(4, jnp.int32),
}
# For sums without noise, which are NOT PRIVATE.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def loss(params, fixed, example, key):
    """Far from the weights, so that every gradient is longer than any C here."""
    del fixed, key
    return jnp.sum((params["w"] - 100 - example["image"][0, 0]) ** 2)


def plan_of(clip_norm, noise_multiplier=0.0, public=""):
    return make_plan(
        PrivacyConfig(
            num_examples=8,
            batch_size=4,
            epsilon=math.inf,
            delta=1e-5,
            l2_clip_norm=clip_norm,
            num_steps=3,
            noise_multiplier=None if public else noise_multiplier,
            public_data=public,
        )
    )


@pytest.fixture
def trained(tiny_config):
    """Takes three steps and returns where the weights then are."""

    def trained(plan, **fields):
        config = tiny_config(
            **{f"train__{name}": value for name, value in fields.items()}
        )
        # Two keys of a test, so that noise is the same at every C.
        key = jax.random.split(jax.random.key(5))
        training = build_training(config, plan, loss, key, devices.data_mesh())
        return steps_of(training.step_fns, training.optimizer, training.noise)

    return trained


def steps_of(step_fns, optimizer, noise):
    state = create_state({"w": jnp.zeros(3)}, optimizer, noise)
    for _ in range(3):
        partial = step_fns.accumulate(
            step_fns.start(state.params),
            state.params,
            {},
            EXAMPLES,
            jnp.zeros(4, bool),
            jnp.arange(4),
            jax.random.key(0),
        )
        state, _ = step_fns.finish(state, partial)
    return np.asarray(state.params["w"])


@pytest.mark.slow
@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_in_clip_norms_the_clip_norm_changes_nothing(trained, noise_multiplier):
    # Powers of two, so that sums and noise are the same multiples of the grid.
    ends = [
        trained(plan_of(2.0**power, noise_multiplier), gradient_unit="clip_norm")
        for power in (-2, -10, -24)
    ]
    np.testing.assert_allclose(ends[1:], 2 * ends[:1], rtol=1e-5)
    other = trained(plan_of(1e-3), gradient_unit="clip_norm")
    if not noise_multiplier:
        np.testing.assert_allclose(other, ends[0], rtol=1e-5)


def test_else_epsilon_of_adam_outweighs_small_gradients(trained):
    usual, tiny = (trained(plan_of(clip_norm)) for clip_norm in (1.0, 1e-8))
    assert (np.abs(tiny) < 0.7 * np.abs(usual)).all()


def test_by_default_the_sum_is_divided_by_the_batch_alone(trained, tiny_config):
    plan = plan_of(1e-3)
    training = build_training(
        tiny_config(), plan, loss, jax.random.key(0), devices.data_mesh()
    )
    step_fns = make_train_step(
        loss,
        training.optimizer,
        training.noise,
        normalize_by(plan.expected_batch_size),
        devices.data_mesh(),
        l2_clip_norm=plan.l2_clip_norm,
        ema_decay=0.99,
    )
    by_hand = steps_of(step_fns, training.optimizer, training.noise)
    np.testing.assert_array_equal(trained(plan), by_hand)


def test_without_clipping_there_is_no_other_unit(trained):
    plan = plan_of(1e-3, public="digits")
    assert math.isinf(plan.l2_clip_norm)
    moved = [trained(plan, gradient_unit=unit) for unit in ("one", "clip_norm")]
    np.testing.assert_array_equal(*moved)
    assert np.abs(moved[0]).min() > 0


def test_an_unknown_unit_gets_a_sentence(trained):
    with pytest.raises(InputError, match="is 'C'; allowed: one, clip_norm"):
        trained(plan_of(1.0), gradient_unit="C")
