"""Canaries meet the mechanism that is accounted for, one run or many at once."""

import numpy as np
import pytest
import scipy.stats

from dpdm_jax.audit.canaries import CanaryTraining
from dpdm_jax.privacy import PrivacyConfig, make_plan

_STEPS, _RATE, _NOISE = 40, 0.5, 0.25


@pytest.fixture(scope="module")
def training(make_config):
    plan = make_plan(
        PrivacyConfig(
            num_examples=60,
            batch_size=30,
            epsilon=np.inf,
            delta=1e-5,
            noise_multiplier=_NOISE,
            l2_clip_norm=2.0,
            num_steps=_STEPS,
        )
    )
    return CanaryTraining(make_config(train__microbatch_size=16), plan, 60)


def check(sums, members):
    """Tests distributions with an error rate of 1e-3 each; the entropy is fixed."""
    outside = np.setdiff1d(np.arange(60), members)
    noise = scipy.stats.norm(scale=_NOISE).cdf
    p = scipy.stats.kstest(sums[..., outside].ravel(), noise).pvalue
    assert p > 1e-3
    # Noise of a quarter leaves no doubt about most selections.
    inside = sums[..., members].ravel()
    p = scipy.stats.kstest(
        inside, lambda x: (1 - _RATE) * noise(x) + _RATE * noise(x - 1)
    ).pvalue
    assert p > 1e-3


@pytest.mark.usefixtures("same_entropy")
def test_one_run(training):
    members = np.arange(0, 60, 2)
    sums, sizes = training.one_run(members)
    assert sums.shape == (_STEPS, 60)
    check(sums, members)
    assert sizes.std() > 0
    # Each batch's size, to the noise of so many entries.
    error = sums[:, members].sum(axis=1) - sizes
    assert np.abs(error).max() < 5 * _NOISE * np.sqrt(len(members))
    again, _ = training.one_run(members)
    assert np.abs(again - sums).max() > 1  # under secrets of its own


@pytest.mark.usefixtures("same_entropy")
def test_many_runs(training):
    some, fewer = np.arange(20), np.arange(5)
    sums = training.many_runs([some, fewer, some])
    assert sums.shape == (3, _STEPS, 60)
    check(sums[::2], some)
    check(sums[1], fewer)
    assert np.abs(sums[0] - sums[2]).max() > 1
