"""PRIVACY.json and PRIVACY.md: all of the statement follows from the ledgers."""

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

import dpdm_jax
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    LedgerRecord,
    Selection,
    Tuning,
    accounting,
    statement_fields,
    statement_of,
)
from dpdm_jax.privacy.statement import outside
from dpdm_jax.release import bundle

_FORMAT = "dpdm_jax privacy statement 1"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "safetensors")

#: Texts, which another version may word otherwise; all else must agree.
WORDS = frozenset({"cautions", "not_private", "outside", "software"})


def privacy_fields(
    record: LedgerRecord,
    tuning: Tuning,
    manifest: dict[str, Any],
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Returns the contents of PRIVACY.json.

    Args:
        record: the ledger of the run.
        tuning: how its settings were chosen.
        manifest: of the release.
        metrics: names of the files with metrics.

    Returns:
        JSON values; see ``privacy.statement_fields``.
    """
    return (
        {
            "format": _FORMAT,
            "name": manifest["name"],
            "steps_released": manifest["step"],
        }
        | statement_fields(record, tuning)
        | {
            "outside": list(outside(record.plan, tuning)),
            "disclosures": _disclosures(manifest, metrics),
            "software": _software(),
            "ledgers": [run.to_dict() for run in (record, *tuning.runs)],
        }
    )


def read_accounted(fields: dict[str, Any]) -> tuple[LedgerRecord, Tuning]:
    """Returns the ledger and the tuning that PRIVACY.json rests on.

    Raises:
        InputError: they are damaged, or the format is another.
    """
    if fields.get("format") != _FORMAT:
        raise InputError(
            f"{bundle.PRIVACY} states the format {fields.get('format')!r}; allowed: "
            f"{_FORMAT}."
        )
    record, *others = (LedgerRecord.from_dict(ledger) for ledger in fields["ledgers"])
    selection = fields["tuning"]["selection"]
    return record, Tuning(
        tuple(others), None if selection is None else Selection.from_dict(selection)
    )


def privacy_text(record: LedgerRecord, tuning: Tuning, fields: dict[str, Any]) -> str:
    """Returns the contents of PRIVACY.md.

    Args:
        record: the ledger of the run.
        tuning: how its settings were chosen.
        fields: the contents of PRIVACY.json.
    """
    lines = [
        f"# Privacy of {fields['name']}",
        "",
        statement_of(record, tuning),
        f"The weights are those after step {fields['steps_released']}; every step that "
        "may have run is counted.",
    ]
    if fields["private"]:
        lines += [
            "",
            "Whoever has this release can check it: `python -m dpdm_jax.release verify "
            f"FOLDER` recomputes epsilon from {bundle.PRIVACY}. By accountant: PLD "
            f"{fields['epsilon_pld'] or 'none'}, RDP {fields['epsilon_rdp']}.",
        ]
    lines += ["", "## Every private query that is counted", ""]
    lines += [
        "| run | query | sampling | sigma | steps counted | planned |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {query['run_id'][:8]} | {query['name']} | Poisson, q = "
        f"{query['sampling_probability']!r} | {query['noise_multiplier']!r} | "
        f"{query['authorized_steps']} | {query['planned_steps']} |"
        for query in fields["queries"]
    ]
    lines += ["", "## Disclosures outside the guarantee in this release", ""]
    lines += [
        f"- `{disclosure['file']}`: {disclosure['what']}"
        for disclosure in fields["disclosures"]
    ] or ["None."]
    lines += ["", "## Software", ""]
    lines += [f"- {name} {version}" for name, version in fields["software"].items()]
    return "\n".join(lines) + "\n"


def text_failures(text: str, fields: dict[str, Any]) -> list[str]:
    """Returns a sentence if PRIVACY.md does not claim what PRIVACY.json does."""
    flat = " ".join(text.split())
    claim = "NOT PRIVATE NOT PRIVATE NOT PRIVATE"
    if fields["private"]:
        claim = (
            f"Differentially private: epsilon = {fields['epsilon']}, delta = "
            f"{fields['delta']!r} "
        )
    if claim in flat and ("NOT PRIVATE" in flat) is not fields["private"]:
        return []
    return [f"{bundle.PRIVACY_TEXT} does not say {claim.strip()!r}."]


def _disclosures(
    manifest: dict[str, Any], metrics: Sequence[str]
) -> list[dict[str, str]]:
    found = [
        {
            "file": name,
            "what": "metrics computed against real images; no epsilon covers them.",
        }
        for name in metrics
    ]
    samples = manifest["samples"]
    if samples is not None and samples["labels_from_file"]:
        found.append(
            {
                "file": bundle.SAMPLES,
                "what": "its labels were given in a file; if that was made from "
                "private labels, no epsilon covers them.",
            }
        )
    return found


def _software() -> dict[str, str]:
    return {
        "dpdm_jax": dpdm_jax.__version__,
        "accountant": accounting.accountant_version(),
        "python": platform.python_version(),
    } | {name: importlib.metadata.version(name) for name in _PACKAGES}
