"""Scores of canaries: the higher, the surer an attacker is that one was in the data."""

import numpy as np
import scipy.stats

from dpdm_jax.privacy import PrivacyPlan

RELEASE = "release"
EVERY_STEP = "every step"
SAME_NOISE = "same noise again"
SAME_KEYS = "same keys again"
LOSS = "loss"

#: What each attack looks at.
ATTACKS = {
    RELEASE: "the final weights",
    EVERY_STEP: "the weights after every step, by their likelihood",
    SAME_NOISE: "how much a step differs from another: noise used twice cancels",
    SAME_KEYS: "the difference to a second run without canaries: noise from a known "
    "seed cancels",
    LOSS: "how far training lowers the loss of an image",
}


def likelihood_ratio(sums: np.ndarray, plan: PrivacyPlan) -> np.ndarray:
    """Returns the log likelihood ratio of 'in' against 'out'; no test is better.

    Args:
        sums: float [..., steps, n], see ``CanaryTraining.one_run``.
        plan: the privacy plan.

    Returns:
        Float [..., n].
    """
    q, variance = plan.sampling.sampling_probability, plan.noise_multiplier**2
    with np.errstate(divide="ignore"):  # q = 1
        out, selected = np.log1p(-q), np.log(q)
    ratios = np.logaddexp(out, selected + (2 * sums - 1) / (2 * variance))
    return ratios.sum(axis=-2)


def scores(
    sums: np.ndarray, without: np.ndarray, plan: PrivacyPlan
) -> dict[str, np.ndarray]:
    """Scores the canaries of one run.

    Args:
        sums: float [steps, n], see ``CanaryTraining.one_run``.
        without: the same of another run, which had none of the n canaries.
        plan: the privacy plan.

    Returns:
        Float [n] under the name of each attack.
    """
    return {
        RELEASE: sums.sum(axis=0),
        EVERY_STEP: likelihood_ratio(sums, plan),
        SAME_NOISE: sums.var(axis=0),
        SAME_KEYS: (sums - without).sum(axis=0),
    }


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
