"""A run that diverges says so, and leaves nothing to publish."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import settings
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.training import divergence
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train
from dpdm_jax.training.step import Diagnostics

_TINY = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "diffusion.noise_multiplicity": 2,
    "train.batch_size": 100,
    "train.num_steps": 4,
    "train.microbatch_size": 64,
    "checkpoint.every_steps": 2,
    "log.tensorboard": False,
    "log.snapshot_every_steps": 0,
}


def sums(examples: int, non_finite: int) -> Diagnostics:
    return Diagnostics(0.0, 0.0, 0.0, float(non_finite), float(examples))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_one_weight_is_enough(broken):
    whole = {"a": jnp.ones((2, 3)), "b": {"c": np.ones(4, np.float32)}}
    assert divergence.are_finite(whole)
    whole["b"]["c"][3] = broken
    assert not divergence.are_finite(whole)


def test_the_owner_is_told_once_of_steps_in_a_row():
    watch = divergence.GradientWatch()
    lost, sound, empty = sums(5, 5), sums(5, 4), sums(0, 0)
    few = [lost] * (divergence.PATIENCE - 1)
    told = [watch.is_time_to_warn(step) for step in [*few, sound, *few, empty]]
    assert not any(told)
    assert [watch.is_time_to_warn(lost) for _ in range(3)] == [True, False, False]


@pytest.mark.slow
def test_weights_that_are_not_finite_end_the_run_before_they_are_kept(
    tmp_path, monkeypatch
):
    config = digits.network_alone()
    # Of two steps of one direction no float32 holds the sum.
    for name, value in (_TINY | {"train.learning_rate": 3e38}).items():
        settings.assign(config, name, value)
    with pytest.raises(InputError, match="not finite after step 2, which no further"):
        train(config, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [0]
    checkpoints.close()
    # Kept all the same, as by an earlier version, they are not read.
    monkeypatch.setattr(divergence, "are_finite", lambda params: True)
    config.train.stop_after_steps = 2
    train(config, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    model = build_model(config, *checkpoints.stored_problem())
    for name in ("ema", "raw"):
        with pytest.raises(InputError, match="of the checkpoint of step 2 are not fin"):
            checkpoints.restore_weights(model, name)
    checkpoints.close()
