"""Canaries meet the mechanism that is accounted for, one run or many at once."""

import numpy as np
import pytest
import scipy.stats

from dpdm_jax.audit.canaries import CanaryTraining
from dpdm_jax.conditions import of_classes
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import Group, PrivacyConfig, Query, make_plan
from dpdm_jax.queries import of_run

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
    # Sums are read whatever unit the run's optimizer has them in.
    config = make_config(train__microbatch_size=16, train__gradient_unit="clip_norm")
    return CanaryTraining(config, plan, (), 60)


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
    sums, sizes, answers = training.one_run(members)
    assert answers == ()
    assert sums.shape == (_STEPS, 60)
    check(sums, members)
    assert sizes.std() > 0
    # Each batch's size, to the noise of so many entries.
    error = sums[:, members].sum(axis=1) - sizes
    assert np.abs(error).max() < 5 * _NOISE * np.sqrt(len(members))
    again = training.one_run(members)
    assert np.abs(again.sums - sums).max() > 1  # under secrets of its own


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
def test_many_runs(training):
    some, fewer = np.arange(20), np.arange(5)
    sums, answers = training.many_runs([some, fewer, some])
    assert answers == 3 * [()]
    assert sums.shape == (3, _STEPS, 60)
    check(sums[::2], some)
    check(sums[1], fewer)
    assert np.abs(sums[0] - sums[2]).max() > 1


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
@pytest.mark.parametrize(
    ("components", "queries", "unit"),
    [(0, 2, None), (5, 3, None), (5, 3, Group("person", 2))],
    ids=str,
)
def test_queries_before_the_first_step(make_config, components, queries, unit):
    """Each canary adds a vector of its class alone, as long as is accounted for."""
    noise = 0.5
    plan = make_plan(
        PrivacyConfig(
            num_examples=60,
            batch_size=60,
            epsilon=np.inf,
            delta=1e-5,
            noise_multiplier=1.0,
            num_steps=1,
            queries=(Query("moments", queries, noise),),
            unit=unit,
        )
    )
    config = make_config(
        diffusion__parameterization="edm_moments",
        diffusion__edm_moments__components=components,
        privacy__moments_noise_multiplier=noise,
    )
    asked = of_run(config, build_model(config, (8, 8, 1), of_classes(10)))
    with pytest.raises(ValueError, match="not those of the plan"):
        CanaryTraining(config, plan, (), 60)
    training = CanaryTraining(config, plan, asked, 60)
    members = np.arange(0, 60, 2)
    run = training.one_run(members)
    assert len(run.answers) == queries
    some = run.of_first(7)
    assert some.sums.shape == (1, 7)
    for answer, part in zip(run.answers, some.answers, strict=True):
        lengths = np.linalg.norm(answer.added.reshape(60, -1), axis=1)
        assert lengths.max() <= 1 + 1e-5
        # Of covariances the diagonal does not count, which is all of a few images.
        assert np.median(lengths) > 0.85
        rest = np.array(answer.noised)
        rest[members] -= answer.added[members]
        p = scipy.stats.kstest(rest.ravel(), scipy.stats.norm(scale=noise).cdf).pvalue
        assert p > 1e-3
        np.testing.assert_array_equal(part.noised, answer.noised[:7])
    # Each of many runs has answers of its own.
    _, answers = training.many_runs([members, members[:3]])
    assert [len(each) for each in answers] == [queries, queries]
    assert (answers[0][0].noised != answers[1][0].noised).all()
