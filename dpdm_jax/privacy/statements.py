"""The privacy statement: what a run guarantees, in words that can be checked."""

import dataclasses
import decimal
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from dpdm_jax import json_values, validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting, units
from dpdm_jax.privacy.ledger import LedgerRecord
from dpdm_jax.privacy.lineage import Origin
from dpdm_jax.privacy.plan import PrivacyPlan
from dpdm_jax.privacy.tuning import NO_TUNING, Tuning

_DECIMALS = decimal.Decimal("0.0001")

_WIDTH = 80

#: Which data sets the guarantee holds between, in the words of the literature; dp-
#: accounting calls it "replace special". See ``accounting.RELATION``.
NEIGHBOURS = "zero_out"

_PROTECTED = (
    "What this means: data sets are neighbours if they are equal but for {one} "
    "replaced by nothing in one of them (zero-out). The number "
    "of {records}, the sampling probability, the steps and the divisor are public "
    "constants, the same for both; with these fixed the accountant's relation, add or "
    "remove one, gives the same bound. Between neighbours the probability of any "
    "outcome differs by at most a factor exp(epsilon) and a further delta. That covers "
    "the final model, the weights after every step, and all that is computed from "
    "them, for example generated images. The smaller epsilon and delta, the better."
)

_INFINITE = "epsilon is infinite"

_TUNING_OUTSIDE = (
    "Tuning: choosing settings, or the best of several runs, by results on the private "
    "images is not counted."
)
_MORE_TUNING_OUTSIDE = (
    "More tuning: any choice of settings or runs by results on the private images, "
    "beside what is counted above."
)
_OUTSIDE = (
    "Diagnostics: training loss, gradient norms, batch sizes and every metric computed "
    "against the private images are not covered and must not be published.",
    "Public facts: the number of {counted}, the classes and all settings are treated "
    "as public.",
    "Secrets: whoever knows the noise key, or the seed of the batches or of the loss's "
    "draws, is not bound by the guarantee.",
    "{arithmetic}",
    "{people}",
)
_PEOPLE = (
    "People: the unit is one image; someone who appears in several is protected less."
)
_GROUPS = (
    "People: the unit is {unit}, as the data has it. Someone who appears in images of "
    "another group, too, is protected less."
)
_FLOAT_OUTSIDE = (
    "Arithmetic: the noise is floating-point noise from a pseudo-random generator "
    "(threefry, 128-bit key). Attacks on the last bits of noised sums, none of which "
    "is published, or on the generator are not protected against."
)
_EXACT_OUTSIDE = (
    "Randomness: noise and batches come from pseudo-random generators (threefry with a "
    "128-bit key, SHAKE-256). Attacks on these are not protected against."
)


def format_epsilon(value: float) -> str:
    """Returns epsilon with four decimals, rounded up so that it is never understated.

    The one way in which the program, its reports and its statements write an epsilon.

        >>> format_epsilon(1.00001), format_epsilon(0.1)
        ('1.0001', '0.1000')

    Args:
        value: >= 0; infinity is written as "infinity".
    """
    if math.isinf(value):
        return "infinity"
    # The shortest decimal that means this float: 0.1 is 0.1000, not 0.1001.
    exact = decimal.Decimal(repr(float(value)))
    with decimal.localcontext(prec=400):
        return str(exact.quantize(_DECIMALS, rounding=decimal.ROUND_CEILING))


@dataclasses.dataclass(frozen=True)
class Statement:
    """What a run guarantees, in parts that a screen or a page lays out.

    Attributes:
        epsilon: what has been spent; infinity without a guarantee.
        not_private: reasons why there is no guarantee; empty for a private run.
        paragraphs: what holds and what it means, the verdict first.
        mechanism: how the model was trained, a fact each.
        outside: what the guarantee leaves out; empty without a guarantee.
    """

    epsilon: float
    not_private: tuple[str, ...]
    paragraphs: tuple[str, ...]
    mechanism: tuple[str, ...]
    outside: tuple[str, ...]

    def to_text(self) -> str:
        """Returns the statement as plain text for a terminal."""
        lines = [textwrap.fill(text, _WIDTH) + "\n" for text in self.paragraphs]
        lines += ["How the model was trained:", *_bullets(self.mechanism)]
        if self.outside:
            lines += ["\nOutside this guarantee:", *_bullets(self.outside)]
        return "\n".join(lines) + "\n"


def make_statement(
    plan: PrivacyPlan,
    steps: int,
    *,
    not_private: Sequence[str] = (),
    spent: float | None = None,
    tuning: Tuning = NO_TUNING,
    computed_with: str | None = None,
    origin: Origin | None = None,
    codec: Origin | None = None,
) -> Statement:
    """Returns the privacy statement of a run after ``steps`` steps.

    Args:
        plan: the plan of the run.
        steps: steps that may have run, 0 to ``plan.total_steps``; see the ledger.
        not_private: reasons why the run has no guarantee although the plan does, for
            example fixed keys; see ``LedgerRecord.not_private``.
        spent: epsilon of everything composed, when there is more than the plan's steps;
            None means that of ``steps`` steps of the plan.
        tuning: how the run's settings were chosen; ``spent`` includes it.
        computed_with: the library behind ``spent`` and its version; None for the one
            that is installed.
        origin: whose weights the run began with; None for random ones.
        codec: whose weights the codec has; None of a codec without any.

    Raises:
        InputError: if ``steps`` is out of range.
    """
    validate.integer("steps", steps, minimum=0)
    if steps > plan.total_steps:
        raise InputError(f"steps is {steps}; allowed: at most {plan.total_steps}.")
    reasons = list(not_private)
    if plan.public_data and not reasons:
        reasons.append(f"the data is public ({plan.public_data})")
    boundless = not plan.is_private or (spent is not None and math.isinf(spent))
    boundless = boundless and not plan.public_data
    if boundless and _INFINITE not in reasons and (not reasons or not plan.is_private):
        reasons.append(_INFINITE)
    if plan.public_data:
        spent = math.inf
        paragraphs = [
            f"Public data: {plan.public_data}",
            "The model was trained on data that whoever trained it states to be "
            "public. None of it is protected: the model and everything made with it "
            "may reveal training images.",
        ]
    elif reasons:
        spent = math.inf
        paragraphs = [
            "NOT PRIVATE  NOT PRIVATE  NOT PRIVATE",
            f"This run gives no privacy guarantee: {'; '.join(reasons)}. The model and "
            "everything made with it may reveal training images.",
        ]
    else:
        if spent is None:
            spent = plan.epsilon_spent(steps)
        paragraphs = [
            "Differentially private: epsilon = "
            f"{format_epsilon(spent)}, delta = {plan.delta!r}",
            f"This holds after {steps} of {plan.total_steps} planned steps. All "
            "planned steps together spend epsilon = "
            f"{format_epsilon(plan.epsilon)}; the budget is "
            f"{format_epsilon(plan.target_epsilon)}.",
            *([_extended(plan)] if plan.extends is not None else []),
            *([tuning.describe()] if tuning.is_counted else []),
            *(f"Caution: {caution}" for caution in plan.cautions()),
            _protected(plan.unit),
        ]
    accountant = plan.accountant if tuning.selection is None else "rdp"
    return Statement(
        epsilon=spent,
        not_private=tuple(reasons),
        paragraphs=tuple(paragraphs),
        mechanism=tuple(
            ([] if origin is None else [_lineage(origin)])
            + ([] if codec is None else [_codec_in_words(codec)])
            + _mechanism(
                plan,
                steps,
                accountant,
                computed_with or accounting.accountant_version(),
            )
        ),
        outside=() if reasons else outside(plan, tuning),
    )


def statement(
    plan: PrivacyPlan,
    steps: int,
    *,
    not_private: Sequence[str] = (),
    spent: float | None = None,
    tuning: Tuning = NO_TUNING,
) -> str:
    """Returns ``make_statement``'s statement as plain text."""
    made = make_statement(
        plan, steps, not_private=not_private, spent=spent, tuning=tuning
    )
    return made.to_text()


def guess_bound(epsilon: float, delta: float) -> float:
    """Bounds how often a guess whether one given example was used can be right.

    It holds for anyone to whom both are equally likely beforehand, whatever else they
    know or compute. Under (epsilon, delta) the rates of the two errors of any test obey
    a + exp(epsilon) b >= 1 - delta and the same with a and b exchanged (Kairouz, Oh and
    Viswanath, arXiv 1311.0776); half the sum of both is the bound.

    Args:
        epsilon: >= 0; may be infinite.
        delta: in [0, 1].

    Returns:
        A probability, 0.5 (a coin) to 1 (no protection).
    """
    # exp(-epsilon) does not overflow.
    return 1 - (1 - delta) * math.exp(-epsilon) / (1 + math.exp(-epsilon))


def outside(plan: PrivacyPlan, tuning: Tuning = NO_TUNING) -> tuple[str, ...]:
    """Returns sentences on what the guarantee does not cover."""
    people, counted = _PEOPLE, "training images, their size"
    if plan.unit is not None:
        people = _GROUPS.format(unit=units.in_words(plan.unit))
        counted = "groups, the images' size"
    words = {
        "arithmetic": _FLOAT_OUTSIDE if plan.coordinates is None else _EXACT_OUTSIDE,
        "people": people,
        "counted": counted,
    }
    return (
        _MORE_TUNING_OUTSIDE if tuning.is_counted else _TUNING_OUTSIDE,
        *(text.format(**words) for text in _OUTSIDE),
    )


def _protected(unit: units.Group | None) -> str:
    if unit is None:
        return _PROTECTED.format(
            one="one training image, whose record is", records="records"
        )
    one = f"{units.in_words(unit)}, which are"
    return _PROTECTED.format(one=one, records="groups")


def make_statement_of(
    record: LedgerRecord,
    tuning: Tuning = NO_TUNING,
    *,
    spent: float | None = None,
    computed_with: str | None = None,
) -> Statement:
    """Returns the privacy statement of a ledger.

    Args:
        record: the ledger; all that it authorised counts.
        tuning: how the run's settings were chosen.
        spent: the epsilon to state; None computes it.
        computed_with: see ``make_statement``.
    """
    return make_statement(
        record.plan,
        record.authorized_steps,
        not_private=tuning.not_private(record),
        spent=tuning.epsilon(record) if spent is None else spent,
        tuning=tuning,
        computed_with=computed_with,
        origin=record.origin,
        codec=record.codec,
    )


def statement_of(record: LedgerRecord, tuning: Tuning = NO_TUNING) -> str:
    """Returns ``make_statement_of``'s statement as plain text."""
    return make_statement_of(record, tuning).to_text()


def statement_fields(
    record: LedgerRecord, tuning: Tuning = NO_TUNING
) -> dict[str, Any]:
    """Returns the facts of the privacy statement of a ledger, for machines.

    Every number follows from the arguments, so that whoever has them can make the
    fields again and compare.

    Args:
        record: the ledger; all that it authorised counts.
        tuning: how the run's settings were chosen.

    Returns:
        JSON values. An epsilon is a string, as ``format_epsilon`` writes it; None where
        an accountant has no figure. Infinity is "inf" elsewhere.
    """
    plan = record.plan
    not_private = tuning.not_private(record)
    if not not_private and math.isinf(tuning.epsilon(record)):
        not_private = (_INFINITE,)

    def figure(accountant: str) -> str | None:
        if tuning.selection is not None and accountant != "rdp":
            return None
        return format_epsilon(tuning.epsilon(record, accountant))

    return {
        "private": not not_private,
        "not_private": list(not_private),
        "epsilon": format_epsilon(tuning.epsilon(record)),
        "delta": plan.delta,
        "accountant": tuning.accountant(record),
        "epsilon_pld": figure("pld"),
        "epsilon_rdp": figure("rdp"),
        "epsilon_without_tuning": format_epsilon(record.epsilon_spent()),
        "epsilon_planned": format_epsilon(plan.epsilon),
        "epsilon_budget": format_epsilon(plan.target_epsilon),
        "neighbouring_relation": NEIGHBOURS,
        "accounted_relation": plan.relation,
        "unit_of_privacy": units.in_words(plan.unit),
        "mechanism": {
            "noise": "none" if plan.noise_multiplier == 0 else "gaussian",
            "l2_clip_norm": json_values.encode(plan.l2_clip_norm),
            "sampling": "poisson",
            "sampling_probability": plan.sampling.sampling_probability,
            "truncation": "none",
            "steps_authorized": record.authorized_steps,
            "steps_planned": plan.total_steps,
            "expected_batch_size": plan.expected_batch_size,
            "num_examples": plan.num_examples,
            "noise_multiplicity": plan.noise_multiplicity,
        }
        | _queries(plan)
        | _arithmetic(plan)
        | _where_there_is(
            parameters=plan.parameters,
            trained=plan.trained and plan.trained.to_dict(),
            views=plan.views and plan.views.to_dict(),
            group=plan.unit and plan.unit.to_dict(),
        )
        | (_noise(plan) if plan.extends is None else {"phases": phase_fields(plan)}),
        "queries": [
            {"run_id": run.run_id} | event.to_dict() | {"sampling": "poisson"}
            for run in (record, *tuning.runs)
            for event in run.events
        ],
        "tuning": {
            "counted": tuning.is_counted,
            "other_runs": [run.run_id for run in tuning.runs],
            "selection": tuning.selection and tuning.selection.to_dict(),
        },
        "cautions": list(plan.cautions()),
    } | _where_there_is(
        public_data=plan.public_data,
        lineage=record.origin and _origin_fields(record.origin),
        codec=record.codec and _origin_fields(record.codec),
    )


def _where_there_is(**fields: Any) -> dict[str, Any]:
    """Those that older statements do not have, but for empty ones."""
    return {name: value for name, value in fields.items() if value}


def _origin_fields(origin: Origin) -> dict[str, Any]:
    fields = {"kind": origin.kind, "name": origin.name, "sha256": origin.sha256}
    if origin.ledger is None:
        return fields | {"public_data": origin.public_data}
    parent = LedgerRecord.from_dict(origin.ledger)
    return (
        fields
        | {
            "epsilon": format_epsilon(parent.epsilon_spent()),
            "delta": parent.plan.delta,
            "accountant": parent.plan.accountant,
        }
        | _where_there_is(group=parent.plan.unit and parent.plan.unit.to_dict())
    )


def _lineage(origin: Origin) -> str:
    began = (
        f"Lineage: training began with weights of the {origin.kind} {origin.name} "
        f"(SHA-256 {origin.sha256}), which were trained on "
    )
    if origin.ledger is None:
        return f"{began}public data: {origin.public_data}. None of that is protected."
    fields, unit = _origin_fields(origin), ""
    if "group" in fields:
        unit = f", for {units.in_words(units.Group.from_dict(fields['group']))}"
    return (
        f"{began}private data of others. Their guarantee is one of its own, and not "
        f"part of this one: epsilon = {fields['epsilon']}, delta = "
        f"{fields['delta']!r} ({fields['accountant'].upper()}){unit}. It is stated "
        "that no one is in both data sets."
    )


def _codec_in_words(origin: Origin) -> str:
    return (
        "Images: the model sees and makes them by way of an autoencoder, that of the "
        f"{origin.kind} {origin.name} (SHA-256 {origin.sha256}), which was trained on "
        f"public data: {origin.public_data}. None of that is protected, and no step "
        "changes it."
    )


def phase_fields(plan: PrivacyPlan) -> list[dict[str, Any]]:
    """Returns the facts of each phase of a run, for machines.

    Returns:
        JSON values in the order of the steps: what each phase adds, and the epsilon of
        all planned steps up to its end.
    """
    return [
        {
            "first_step": phase.first_step,
            "steps_planned": phase.num_steps,
            "epsilon_planned": format_epsilon(phase.epsilon),
            "epsilon_budget": format_epsilon(phase.target_epsilon),
        }
        | _noise(phase)
        for phase in plan.phases
    ]


def phase_lines(plan: PrivacyPlan) -> list[str]:
    """Returns a line for people on each phase of a run."""
    return [
        f"Phase {number}: {phase.num_steps} steps at noise multiplier sigma = "
        f"{phase.noise_multiplier!r}; up to its end epsilon = "
        f"{format_epsilon(phase.epsilon)} of a budget of "
        f"{format_epsilon(phase.target_epsilon)}."
        for number, phase in enumerate(plan.phases, start=1)
    ]


def extension_text(record: LedgerRecord, plan: PrivacyPlan) -> str:
    """Returns what an extension will cost, for whoever decides on it.

    Args:
        record: the ledger of the run as it is.
        plan: the extension of its plan.
    """
    lines = [
        f"Spent so far: epsilon = {format_epsilon(record.epsilon_spent())} after "
        f"{record.authorized_steps} of {record.plan.total_steps} planned steps.",
        *phase_lines(plan),
        f"Total of all {plan.total_steps} steps, composed: epsilon = "
        f"{format_epsilon(plan.epsilon)}, delta = {plan.delta!r} "
        f"({plan.accountant.upper()}, {accounting.accountant_version()}).",
    ]
    if record.fixed_keys:
        lines.append("The run's keys are fixed, so it is NOT PRIVATE all the same.")
    return "\n".join(lines)


def _extended(plan: PrivacyPlan) -> str:
    return (
        "The run was extended by explicit plans, whose steps are composed with those "
        f"before. {' '.join(phase_lines(plan))}"
    )


def _noise(plan: PrivacyPlan) -> dict[str, float]:
    return {
        "noise_multiplier": plan.noise_multiplier,
        "noise_stddev": plan.noise_stddev,
    }


def _queries(plan: PrivacyPlan) -> dict[str, Any]:
    return {
        query.name: {
            "queries": query.count,
            "noise_multiplier": query.noise_multiplier,
        }
        for query in plan.queries
    }


def _arithmetic(plan: PrivacyPlan) -> dict[str, Any]:
    if plan.coordinates is None:
        return {}
    return {"arithmetic": "exact integers", "coordinates": plan.coordinates}


def _arithmetic_in_words(plan: PrivacyPlan) -> list[str]:
    if plan.coordinates is None or plan.public_data:
        return []
    return [
        "Arithmetic: exact. Sums are of integers and the noise is a discrete Gaussian "
        f"on them, {plan.coordinates} numbers in a sum at most; what is left between "
        "that and real numbers is part of epsilon and delta."
    ]


def _mechanism(
    plan: PrivacyPlan, steps: int, accountant: str, computed_with: str
) -> list[str]:
    if math.isinf(plan.l2_clip_norm):
        clipping = "Clipping: none."
    else:
        draws = f"its noise draws (K = {plan.noise_multiplicity})"
        if plan.unit is not None:
            draws = f"its images and their noise draws (K = {plan.noise_multiplicity})"
        clipping = (
            f"Clipping: {units.a_noun(plan.unit)} contributes one vector to a step, "
            f"the average over {draws} clipped to an L2 norm of "
            f"at most C = {plan.l2_clip_norm!r}."
        )
    several, noun = len(plan.phases) > 1, units.noun(plan.unit)
    noise = [
        (f"Steps {phase.first_step + 1} to {phase.total_steps}: " if several else "")
        + _noise_in_words(phase)
        for phase in plan.phases
    ]
    return [
        _data_in_words(plan),
        *(query.in_words(plan.unit) for query in plan.queries),
        f"Batches: Poisson sampling; each {noun} enters each step independently with "
        f"probability q = {plan.sampling.sampling_probability!r}. No truncation: no "
        f"sampled {noun} is dropped.{_images_in_words(plan.unit)}",
        f"Steps: T = {steps} taken, {plan.total_steps} planned.",
        *_trained_in_words(plan),
        *([] if plan.views is None else [plan.views.in_words()]),
        clipping,
        *noise,
        *_arithmetic_in_words(plan),
        f"Divisor: the sum is divided by the constant {plan.expected_batch_size}.",
        *(
            []
            if plan.public_data
            else [f"Accountant: {accountant.upper()}, {computed_with}."]
        ),
    ]


def _trained_in_words(plan: PrivacyPlan) -> list[str]:
    if plan.trained is not None:
        return [plan.trained.in_words()]
    if plan.parameters is None:
        return []
    return [f"Trained: all {plan.parameters} parameters of the network."]


def _data_in_words(plan: PrivacyPlan) -> str:
    if plan.unit is None:
        return f"Data: {plan.num_examples} training images."
    return (
        f"Data: training images of {plan.num_examples} groups. A group has all images "
        f"with one value of {plan.unit.column}."
    )


def _images_in_words(unit: units.Group | None) -> str:
    if unit is None:
        return ""
    one = "one of its images does" if unit.images == 1 else ""
    some = f"up to {unit.images} of its images do"
    return f" Where a group enters, {one or some}, drawn anew for each step."


def _noise_in_words(plan: PrivacyPlan) -> str:
    if plan.noise_multiplier == 0:
        return "Noise: none."
    return (
        f"Noise: Gaussian, noise multiplier sigma = {plan.noise_multiplier!r}, "
        f"standard deviation sigma * C = {plan.noise_stddev!r} on the sum."
    )


def _bullets(items: Sequence[str]) -> list[str]:
    return [
        textwrap.fill(item, _WIDTH, initial_indent="- ", subsequent_indent="  ")
        for item in items
    ]
