"""Scores of canaries: the higher, the surer an attacker is that one was in the data."""

import itertools
from collections.abc import Sequence

import numpy as np
import scipy.stats

from dpdm_jax.audit.canaries import Answer, Run
from dpdm_jax.privacy import PrivacyPlan

QUERIES = "queries"
QUERIES_SAME_KEYS = "queries, same keys again"
RELEASE = "release"
EVERY_STEP = "every step"
SAME_NOISE = "same noise again"
SAME_KEYS = "same keys again"
LOSS = "loss"

#: What each attack looks at.
ATTACKS = {
    QUERIES: "what the queries before the first step released, by its likelihood",
    QUERIES_SAME_KEYS: "the difference of the queries' results to a second run's "
    "without canaries",
    RELEASE: "the final weights",
    EVERY_STEP: "the weights after every step and what the queries before released, by "
    "their likelihood",
    SAME_NOISE: "how much a step differs from another: noise used twice cancels",
    SAME_KEYS: "the difference to a second run without canaries: noise from a known "
    "seed cancels",
    LOSS: "how far training lowers the loss of an image",
}


def likelihood_ratio(sums: np.ndarray, plan: PrivacyPlan) -> np.ndarray:
    """Returns the log likelihood ratio of 'in' against 'out'; no test is better.

    Args:
        sums: float [..., steps, n], see ``Run``.
        plan: the privacy plan.

    Returns:
        Float [..., n].
    """
    q, variance = plan.sampling.sampling_probability, plan.noise_multiplier**2
    with np.errstate(divide="ignore"):  # q = 1
        out, selected = np.log1p(-q), np.log(q)
    ratios = np.logaddexp(out, selected + (2 * sums - 1) / (2 * variance))
    return ratios.sum(axis=-2)


def likelihood_ratio_of_queries(answers: Sequence[Answer]) -> np.ndarray:
    """Returns the log likelihood ratio of 'in' against 'out' before the first step.

    Args:
        answers: to the queries, see ``Run``; one at least.

    Returns:
        Float [n].
    """
    return sum(
        (
            (_along(x.noised, x.added) - _along(x.added, x.added) / 2)
            / x.noise_multiplier**2
            for x in answers
        ),
        start=np.zeros(()),
    )


def scores(run: Run, without: Run, plan: PrivacyPlan) -> dict[str, np.ndarray]:
    """Scores the canaries of one run.

    Args:
        run: on some of n canaries.
        without: another run, which had none of them.
        plan: the privacy plan.

    Returns:
        Float [n] under the name of each attack that there is something for.
    """
    ratios = likelihood_ratio(run.sums, plan)
    found = {
        RELEASE: run.sums.sum(axis=0),
        SAME_NOISE: run.sums.var(axis=0),
        SAME_KEYS: (run.sums - without.sums).sum(axis=0),
    }
    if run.answers:
        found[QUERIES] = likelihood_ratio_of_queries(run.answers)
        found[QUERIES_SAME_KEYS] = sum(
            _along(x.noised - other.noised, x.added)
            for x, other in zip(run.answers, without.answers, strict=True)
        )
        ratios = ratios + found[QUERIES]
    return found | {EVERY_STEP: ratios}


def noise_p_value(run: Run, member: np.ndarray, num_steps: int = 3) -> float:
    """Tests whether queries and first steps have noise of their own.

    Noise that is used again, under whatever name, cancels in a difference. One vector
    is drawn for all values of a query or of a step, so each value's noise is compared
    with that of the same place elsewhere, where both are nothing but noise.

    Args:
        run: on the members of n canaries.
        member: bool [n].
        num_steps: steps that are looked at.

    Returns:
        The two-sided p-value of the largest correlation among all pairs (Fisher's
        transformation, Bonferroni's correction).
    """
    vectors = [*run.sums[:num_steps], *(answer.noised for answer in run.answers)]
    noises = []
    for values in vectors:
        noise = np.array(values, np.float64)
        noise[member] = np.nan
        noises.append(noise.ravel())
    smallest, pairs = 1.0, list(itertools.combinations(noises, 2))
    for one, other in pairs:
        size = min(one.size, other.size)
        both = np.isfinite(one[:size]) & np.isfinite(other[:size])
        # No noise at all has no correlation, and noise used again one of 1.
        with np.errstate(divide="ignore", invalid="ignore"):
            r = np.corrcoef(one[:size][both], other[:size][both])[0, 1]
            z = np.arctanh(min(1.0, abs(np.nan_to_num(r)))) * np.sqrt(both.sum() - 3)
        smallest = min(smallest, 2 * float(scipy.stats.norm.sf(z)))
    return min(1.0, len(pairs) * smallest)


def _along(values: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Inner products of what belongs to each of n canaries; float [n]."""
    axes = tuple(range(1, values.ndim))
    return np.sum(values * direction, axis=axes)


def poisson_p_value(sizes: np.ndarray, num_examples: int, probability: float) -> float:
    """Tests whether batch sizes scatter as those of Poisson sampling do.

    Batches of a shuffled epoch are all of one size: another sampling than that which is
    accounted for.

    Args:
        sizes: int [steps].
        num_examples: N >= 1.
        probability: q.

    Returns:
        The two-sided p-value of the sum of squared deviations, from which independent
        Binomial(N, q) sizes differ as a chi-squared of so many degrees does.
    """
    mean = num_examples * probability
    if probability == 1:
        return float(np.all(sizes == mean))
    scatter = np.sum((sizes - mean) ** 2) / (mean * (1 - probability))
    below = scipy.stats.chi2.cdf(scatter, len(sizes))
    above = scipy.stats.chi2.sf(scatter, len(sizes))
    return float(min(1.0, 2 * min(below, above)))
