"""Audits of the mechanism: what canaries show of epsilon, beside what is claimed."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from dpdm_jax.audit import attacks, bounds
from dpdm_jax.audit.canaries import CanaryTraining
from dpdm_jax.privacy import PrivacyPlan, accounting
from dpdm_jax.queries import NamedQuery

_log = logging.getLogger(__name__)

#: The accountant claims an epsilon for every delta. Few runs show more at large ones.
LARGER_DELTAS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7)
#: Tests of the claim in a whole audit: each attack on one run, the batch sizes of
#: canaries and of images, the noise, and many runs at each delta.
NUM_TESTS = len(attacks.ATTACKS) + 2 + 1 + 1 + len(LARGER_DELTAS)

# Examples in all of the many runs, beside the canary.
_BYSTANDERS = 8


@dataclasses.dataclass(frozen=True)
class Bound:
    """What an attack shows of epsilon.

    Attributes:
        attack: one of ``attacks.ATTACKS``.
        delta: at which.
        claimed: epsilon that the accountant states for the steps that were attacked.
        shown: the lower bound.
    """

    attack: str
    delta: float
    claimed: float
    shown: float

    @property
    def contradicts(self) -> bool:
        """Whether the claim can't be true, but for the stated error."""
        return self.shown > self.claimed

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        looks_at = {"looks_at": attacks.ATTACKS[self.attack]}
        return dataclasses.asdict(self) | looks_at | {"contradicts": self.contradicts}


@dataclasses.dataclass(frozen=True)
class OneRun:
    """One run on many canaries.

    Attributes:
        num_steps: steps taken and accounted.
        canaries: how many were in the data or not, each by a coin flip.
        members: how many were in.
        bounds: of each attack, at the plan's delta.
        most: the bound if all guesses were right.
        poisson_p_value: of the batch sizes.
        error: of each of these tests.
        noise_p_value: of the noise of queries and steps; 1 if it was not looked at.
    """

    num_steps: int
    canaries: int
    members: int
    bounds: tuple[Bound, ...]
    most: float
    poisson_p_value: float
    error: float
    noise_p_value: float = 1.0

    @property
    def is_noise_new(self) -> bool:
        """Whether queries and steps seem to have noise of their own."""
        return self.noise_p_value >= self.error

    @property
    def is_poisson(self) -> bool:
        """Whether the batch sizes are what Poisson sampling gives."""
        return self.poisson_p_value >= self.error

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        made = {"bounds": [bound.to_dict() for bound in self.bounds]}
        verdicts = {"is_poisson": self.is_poisson, "is_noise_new": self.is_noise_new}
        return dataclasses.asdict(self) | made | verdicts


@dataclasses.dataclass(frozen=True)
class ManyRuns:
    """Many runs, half of them with one canary more than the others.

    Attributes:
        num_steps: steps of each, taken and accounted.
        runs: how many.
        bounds: at the plan's delta, then at larger ones.
        error: of each bound.
    """

    num_steps: int
    runs: int
    bounds: tuple[Bound, ...]
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        made = {"bounds": [bound.to_dict() for bound in self.bounds]}
        return dataclasses.asdict(self) | made


def audit_one_run(
    config: ml_collections.ConfigDict,
    plan: PrivacyPlan,
    asked: Sequence[NamedQuery] = (),
) -> OneRun:
    """Attacks one run on canaries, each in it with probability 1/2.

    Args:
        config: of the run; reads ``train`` and ``audit``.
        plan: of the run, with noise.
        asked: the run's queries before the first step.

    Returns:
        What was found.
    """
    settings = config.audit
    plan = shortened(plan, settings.num_steps)
    count = settings.canaries
    member = np.random.default_rng(settings.seed).random(count) < 0.5
    _log.info("One run of %d steps on %d canaries.", plan.num_steps, count)
    # One more canary, which is always in: without it the data could be empty.
    training = CanaryTraining(config, plan, asked, count + 1)
    present = np.append(np.flatnonzero(member), count)
    run, without = (
        training.one_run(each).of_first(count) for each in (present, np.array([count]))
    )
    scores = attacks.scores(run, without, plan)
    judged = judge_one_run(plan, settings, member, scores, run.sizes, len(present))
    return dataclasses.replace(judged, noise_p_value=attacks.noise_p_value(run, member))


def judge_one_run(
    plan: PrivacyPlan,
    settings: ml_collections.ConfigDict,
    member: np.ndarray,
    scores: dict[str, np.ndarray],
    sizes: np.ndarray,
    num_examples: int,
) -> OneRun:
    """Sets what attacks on one run scored against what is claimed for it.

    Args:
        plan: of the run.
        settings: ``config.audit``.
        member: bool [n], which canaries were in the data, each by a coin flip.
        scores: float [n] under the name of each attack.
        sizes: int [steps], of the batches.
        num_examples: in the data, canaries and others.

    Returns:
        What was found.
    """
    error = error_of_each_test(settings)
    found = {
        attack: bounds.one_run(
            score[member], score[~member], plan.delta, error, settings.seed
        )
        for attack, score in scores.items()
    }
    return OneRun(
        num_steps=plan.num_steps,
        canaries=len(member),
        members=int(member.sum()),
        bounds=tuple(
            Bound(attack, plan.delta, plan.epsilon, shown)
            for attack, shown in found.items()
        ),
        most=bounds.most_of_one_run(len(member), plan.delta, error),
        poisson_p_value=attacks.poisson_p_value(
            sizes, num_examples, plan.sampling.sampling_probability
        ),
        error=error,
    )


def audit_many_runs(
    config: ml_collections.ConfigDict,
    plan: PrivacyPlan,
    asked: Sequence[NamedQuery] = (),
) -> ManyRuns:
    """Attacks runs with and without one canary, at several deltas.

    Args:
        config: see ``audit_one_run``.
        plan: of the run, with noise.
        asked: see ``audit_one_run``.

    Returns:
        What was found.
    """
    settings = config.audit
    plan = shortened(plan, settings.run_steps)
    error = error_of_each_test(settings)
    each = settings.runs // 2
    _log.info("%d runs of %d steps.", 2 * each, plan.num_steps)
    training = CanaryTraining(config, plan, asked, 1 + _BYSTANDERS)
    without = np.arange(1, 1 + _BYSTANDERS)
    present = np.arange(1 + _BYSTANDERS)
    sums, answers = training.many_runs(each * [present] + each * [without])
    score = attacks.likelihood_ratio(sums[..., :1], plan)[:, 0]
    if plan.queries:
        score += [attacks.likelihood_ratio_of_queries(found)[0] for found in answers]
    events = plan.events(plan.num_steps)

    def bound(delta: float) -> Bound:
        claimed = accounting.epsilon_of_events(events, delta, plan.accountant)
        shown = bounds.many_runs(
            score[:each], score[each:], delta, error, settings.seed
        )
        return Bound(attacks.EVERY_STEP, delta, claimed, shown)

    return ManyRuns(
        num_steps=plan.num_steps,
        runs=2 * each,
        bounds=tuple(bound(delta) for delta in (plan.delta, *LARGER_DELTAS)),
        error=error,
    )


def shortened(plan: PrivacyPlan, num_steps: int) -> PrivacyPlan:
    """Returns a plan of the first steps alone, with the epsilon that they spend.

    Args:
        plan: the whole plan; where it extends another, its own steps count. Queries
            before the first step are kept, and count.
        num_steps: steps to keep at most, >= 1.
    """
    sampling = dataclasses.replace(
        plan.sampling, num_steps=min(num_steps, plan.num_steps)
    )
    alone = dataclasses.replace(plan, sampling=sampling, extends=None)
    return dataclasses.replace(alone, epsilon=alone.epsilon_spent(alone.num_steps))


def error_of_each_test(settings: ml_collections.ConfigDict) -> float:
    """Returns what of the whole audit's error each of its tests may have.

    Args:
        settings: ``config.audit``.
    """
    return (1 - settings.confidence) / NUM_TESTS
