"""The privacy statement of releases of format 1, word for word, to check them by.

Such a statement does not name the digests of the files it is about. Its words changed
twice while the format did not; every wording that was released is here. Nothing in this
module follows the words of today's statement.
"""

import math
import textwrap
from collections.abc import Iterator
from typing import Any

from dpdm_jax.privacy import LedgerRecord, PrivacyPlan, Tuning, format_epsilon

FORMAT = "dpdm_jax privacy statement 1"

_WIDTH = 80

_PROTECTED = (
    "What this means: using or not using any one training image (data sets are "
    "neighbours if one has one image more: add or remove one) changes the probability "
    "of any outcome by at most a factor exp(epsilon) and a further delta. That covers "
    "the final model, the weights after every step, and all that is computed from "
    "them, for example generated images. The smaller epsilon and delta, the better."
)
_TUNING = (
    "Tuning: choosing settings, or the best of several runs, by results on the private "
    "images is not counted."
)
_MORE_TUNING = (
    "More tuning: any choice of settings or runs by results on the private images, "
    "beside what is counted above."
)
_BEFORE_ARITHMETIC = (
    "Diagnostics: training loss, gradient norms, batch sizes and every metric computed "
    "against the private images are not covered and must not be published.",
    "Public facts: the number of training images, their size, the classes and all "
    "settings are treated as public.",
    "Secrets: whoever knows the noise key, or the seed of the batches or of the loss's "
    "draws, is not bound by the guarantee.",
)
_ARITHMETIC = (
    "Arithmetic: the noise is floating-point noise from a pseudo-random generator; "
    "attacks on its rounding or on the generator are not protected against.",
    "Arithmetic: the noise is floating-point noise from a pseudo-random generator "
    "(threefry, 128-bit key). Attacks on the last bits of noised sums, none of which "
    "is published, or on the generator are not protected against.",
)
_PEOPLE = (
    "People: the unit is one image; someone who appears in several is protected less."
)
_MEASURED = ("means and spreads", "moments", "means, spreads and covariances")


def convert_fields(fields: dict[str, Any], record: LedgerRecord) -> dict[str, Any]:
    """Returns the contents of PRIVACY.json as format 1 had them.

    Args:
        fields: those of today's format.
        record: the ledger of the run.
    """
    newer = ("accounted_relation", "files")
    return {name: value for name, value in fields.items() if name not in newer} | {
        "format": FORMAT,
        "neighbouring_relation": record.plan.relation,
    }


def outside(tuning: Tuning) -> list[list[str]]:
    """Returns every wording of what the guarantee does not cover."""
    first = _MORE_TUNING if tuning.is_counted else _TUNING
    return [
        [first, *_BEFORE_ARITHMETIC, arithmetic, _PEOPLE] for arithmetic in _ARITHMETIC
    ]


def texts(
    record: LedgerRecord, tuning: Tuning, fields: dict[str, Any]
) -> Iterator[str]:
    """Yields every wording of PRIVACY.md.

    Args:
        record: the ledger of the run.
        tuning: how its settings were chosen.
        fields: the contents of PRIVACY.json.
    """
    for measured in _MEASURED:
        lines = [
            f"# Privacy of {fields['name']}",
            "",
            _statement(record, tuning, fields, measured),
            f"The weights are those after step {fields['steps_released']}; every step "
            "that may have run is counted.",
        ]
        if fields["private"]:
            lines += [
                "",
                "Whoever has this release can check it: `python -m dpdm_jax.release "
                "verify FOLDER` recomputes epsilon from PRIVACY.json. By accountant: "
                f"PLD {fields['epsilon_pld'] or 'none'}, RDP {fields['epsilon_rdp']}.",
            ]
        yield "\n".join([*lines, *_tables(fields)]) + "\n"


def _statement(
    record: LedgerRecord, tuning: Tuning, fields: dict[str, Any], measured: str
) -> str:
    plan, steps = record.plan, record.authorized_steps
    if reasons := tuning.not_private(record):
        paragraphs = [
            "NOT PRIVATE  NOT PRIVATE  NOT PRIVATE",
            f"This run gives no privacy guarantee: {'; '.join(reasons)}. The model and "
            "everything made with it may reveal training images.",
        ]
    else:
        paragraphs = [
            f"Differentially private: epsilon = {fields['epsilon']}, delta = "
            f"{plan.delta!r}",
            f"This holds after {steps} of {plan.total_steps} planned steps. All "
            "planned steps together spend epsilon = "
            f"{format_epsilon(plan.epsilon)}; the budget is "
            f"{format_epsilon(plan.target_epsilon)}.",
            *([_extended(plan)] if plan.extends is not None else []),
            *([tuning.describe()] if tuning.is_counted else []),
            *(f"Caution: {caution}" for caution in plan.cautions()),
            _PROTECTED,
        ]
    lines = [textwrap.fill(text, _WIDTH) + "\n" for text in paragraphs]
    lines += [
        "How the model was trained:",
        *_bullets(_mechanism(plan, steps, fields, measured)),
    ]
    if not reasons:
        lines += ["\nOutside this guarantee:", *_bullets(fields["outside"])]
    return "\n".join(lines) + "\n"


def _extended(plan: PrivacyPlan) -> str:
    phases = " ".join(
        f"Phase {number}: {phase.num_steps} steps at noise multiplier sigma = "
        f"{phase.noise_multiplier!r}; up to its end epsilon = "
        f"{format_epsilon(phase.epsilon)} of a budget of "
        f"{format_epsilon(phase.target_epsilon)}."
        for number, phase in enumerate(plan.phases, start=1)
    )
    return (
        "The run was extended by explicit plans, whose steps are composed with those "
        f"before. {phases}"
    )


def _mechanism(
    plan: PrivacyPlan, steps: int, fields: dict[str, Any], measured: str
) -> list[str]:
    clipping = "Clipping: none."
    if math.isfinite(plan.l2_clip_norm):
        clipping = (
            "Clipping: an image contributes one vector to a step, the average over "
            f"its noise draws (K = {plan.noise_multiplicity}) clipped to an L2 norm of "
            f"at most C = {plan.l2_clip_norm!r}."
        )
    moments = [
        f"Moments: before the first step, {query.count} queries of all images "
        f"measured {measured} of the classes. An image contributes one vector of "
        "L2 norm at most 1 to each; noise: Gaussian, noise multiplier sigma = "
        f"{query.noise_multiplier!r}. They are counted from the start."
        for query in plan.queries
    ]
    several = len(plan.phases) > 1
    return [
        f"Data: {plan.num_examples} training images.",
        *moments,
        "Batches: Poisson sampling; each image enters each step independently with "
        f"probability q = {plan.sampling.sampling_probability!r}. No truncation: no "
        "sampled image is dropped.",
        f"Steps: T = {steps} taken, {plan.total_steps} planned.",
        clipping,
        *(_noise(phase, several) for phase in plan.phases),
        f"Divisor: the sum is divided by the constant {plan.expected_batch_size}.",
        f"Accountant: {fields['accountant'].upper()}, "
        f"{fields['software']['accountant']}.",
    ]


def _noise(phase: PrivacyPlan, several: bool) -> str:
    which = f"Steps {phase.first_step + 1} to {phase.total_steps}: " if several else ""
    if phase.noise_multiplier == 0:
        return f"{which}Noise: none."
    return (
        f"{which}Noise: Gaussian, noise multiplier sigma = {phase.noise_multiplier!r}, "
        f"standard deviation sigma * C = {phase.noise_stddev!r} on the sum."
    )


def _tables(fields: dict[str, Any]) -> list[str]:
    disclosures = [
        f"- `{each['file']}`: {each['what']}" for each in fields["disclosures"]
    ]
    return [
        "",
        "## Every private query that is counted",
        "",
        "| run | query | sampling | sigma | steps counted | planned |",
        "|---|---|---|---|---|---|",
        *(
            f"| {query['run_id'][:8]} | {query['name']} | Poisson, q = "
            f"{query['sampling_probability']!r} | {query['noise_multiplier']!r} | "
            f"{query['authorized_steps']} | {query['planned_steps']} |"
            for query in fields["queries"]
        ),
        "",
        "## Disclosures outside the guarantee in this release",
        "",
        *(disclosures or ["None."]),
        "",
        "## Software",
        "",
        *(f"- {name} {version}" for name, version in fields["software"].items()),
    ]


def _bullets(items: list[str]) -> list[str]:
    return [
        textwrap.fill(item, _WIDTH, initial_indent="- ", subsequent_indent="  ")
        for item in items
    ]
