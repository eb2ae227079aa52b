"""Lower bounds on epsilon from what an attack scores, by jax_privacy's auditor.

All choose their threshold on a random half of the scores and are computed on the other
half, so that the stated confidence holds whatever the scores.
"""

from types import ModuleType

import numpy as np

from dpdm_jax.errors import InputError


def check_installed() -> None:
    """Raises InputError unless the optional jax_privacy is there."""
    _auditing()


def one_run(
    inside: np.ndarray, outside: np.ndarray, delta: float, error: float, seed: int
) -> float:
    """Bounds epsilon after one run on many canaries, each in it by a coin flip.

    Args:
        inside: float [n], scores of the canaries that were in; n >= 2.
        outside: float [m], of the others; m >= 2.
        delta: in (0, 1).
        error: probability in (0, 1) that the bound may exceed the true epsilon.
        seed: of the halves.

    Returns:
        The lower bound, >= 0.

    Source: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run",
    2023 (arXiv 2305.08846).
    """
    auditing = _auditing()
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    halves = auditing.Split(seed=seed)
    return float(auditor.epsilon_one_run(error, delta, threshold_strategy=halves))


def most_of_one_run(num_canaries: int, delta: float, error: float) -> float:
    """Returns what ``one_run`` gives if every guess is right: no attack shows more."""
    half = num_canaries // 2
    return one_run(np.ones(half), np.zeros(num_canaries - half), delta, error, seed=0)


def many_runs(
    inside: np.ndarray, outside: np.ndarray, delta: float, error: float, seed: int
) -> float:
    """Bounds epsilon after independent runs with and without one example.

    Args:
        inside: float [n], scores of the runs with it; n >= 2.
        outside: float [m], of the runs without; m >= 2.
        delta: in [0, 1].
        error: probability in (0, 0.5) that the bound may exceed the true epsilon.
        seed: of the halves.

    Returns:
        The lower bound, >= 0: Clopper and Pearson's on both error rates.

    Sources: Nasr et al., "Adversary instantiation", 2021 (arXiv 2101.04535); at several
    deltas, Nasr et al., "Tight auditing of differentially private machine learning",
    2023 (arXiv 2302.07956).
    """
    auditing = _auditing()
    auditor = auditing.CanaryScoreAuditor(inside, outside)
    halves = auditing.Split(seed=seed)
    bound = auditor.epsilon_clopper_pearson(error, delta, threshold_strategy=halves)
    return float(bound)


def _auditing() -> ModuleType:
    try:
        from jax_privacy import auditing
    except ImportError:
        raise InputError(
            "jax_privacy, whose statistics the audit uses, is not installed; allowed: "
            "an installation with the extra 'audit' (pip install 'dpdm_jax[audit]')."
        ) from None
    return auditing
