import numpy as np
import pytest
import scipy.stats

from dpdm_jax.audit import attacks, canaries
from dpdm_jax.privacy import PrivacyConfig, make_plan


def plan_of(batch_size):
    return make_plan(
        PrivacyConfig(
            num_examples=100,
            batch_size=batch_size,
            epsilon=np.inf,
            delta=1e-5,
            noise_multiplier=1.5,
            num_steps=7,
        )
    )


@pytest.mark.parametrize("batch_size", [25, 100])
def test_likelihood_ratio_is_that_of_the_mixtures(batch_size):
    plan = plan_of(batch_size)
    q = plan.sampling.sampling_probability
    sums = np.random.default_rng(0).normal(size=(3, 7, 4))
    density = scipy.stats.norm(scale=1.5).pdf
    inside = q * density(sums - 1) + (1 - q) * density(sums)
    expected = np.log(inside / density(sums)).sum(axis=1)
    np.testing.assert_allclose(attacks.likelihood_ratio(sums, plan), expected)


def test_scores_see_what_they_are_for():
    plan = plan_of(25)
    rng = np.random.default_rng(0)
    selected = rng.random((7, 50)) < 0.25
    selected[0], selected[1] = True, False
    noise = rng.normal(size=(1, 50))
    sizes = np.zeros(7, int)

    def run(sums):
        return canaries.Run(sums, sizes, ())

    scores = attacks.scores(run(selected + noise), run(noise), plan)
    assert scores[attacks.SAME_NOISE].min() > 0.1
    assert attacks.QUERIES not in scores
    np.testing.assert_allclose(np.var(noise.repeat(7, 0), axis=0), 0, atol=1e-12)
    known = attacks.scores(run(selected + noise), run(noise.repeat(7, 0)), plan)
    np.testing.assert_allclose(known[attacks.SAME_KEYS], selected.sum(axis=0))


def test_poisson_p_values():
    # 200 p-values of binomial sizes: a correct test fails at 1 % in 1e-3 or fewer of
    # such checks. The seed is fixed.
    sizes = np.random.default_rng(0).binomial(400, 0.25, size=(200, 50))
    p = [attacks.poisson_p_value(s, 400, 0.25) for s in sizes]
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3
    assert attacks.poisson_p_value(np.full(50, 100), 400, 0.25) < 1e-9
    assert attacks.poisson_p_value(np.tile([0, 200], 25), 400, 0.25) < 1e-9


def test_full_batches_are_poisson_at_rate_one():
    assert attacks.poisson_p_value(np.full(5, 30), 30, 1.0) == 1
    assert attacks.poisson_p_value(np.array([30, 29]), 30, 1.0) == 0


def test_likelihood_ratio_of_queries_is_that_of_gaussians():
    rng = np.random.default_rng(0)
    added, noised = rng.normal(size=(2, 3, 4, 5))
    density = scipy.stats.norm(scale=2.0).logpdf
    expected = np.sum(density(noised - added) - density(noised), axis=(1, 2))
    answers = [
        canaries.Answer(noised, added, 2.0),
        canaries.Answer(noised[..., 0], 0 * added[..., 0], 3.0),
    ]
    found = attacks.likelihood_ratio_of_queries(answers)
    np.testing.assert_allclose(found, expected)


def test_p_values_of_noise_that_is_used_again():
    rng = np.random.default_rng(0)
    member = rng.random(60) < 0.5

    def p_value(reuse):
        stream = rng.normal(size=1000)
        sums = rng.normal(size=(3, 60))
        noises = [rng.normal(size=(60, 5)), rng.normal(size=(60, 3))]
        if reuse == "query":
            noises = [stream[: x.size].reshape(x.shape) for x in noises]
        if reuse == "step":
            sums[1], noises[1] = 7 * stream[:60], stream[:180].reshape(60, 3)
        for values in (*sums, *noises):
            values[member] += 100  # what the members add is not looked at
        answers = tuple(canaries.Answer(x, x, 1.0) for x in noises)
        run = canaries.Run(sums, np.zeros(3, int), answers)
        return attacks.noise_p_value(run, member)

    assert p_value("query") < 1e-9
    assert p_value("step") < 1e-9
    # Bonferroni's are too large rather than too small.
    assert np.mean([p_value(None) < 0.1 for _ in range(200)]) < 0.16
