"""PRIVACY.json and PRIVACY.md: all of the statement follows from the ledgers.

PRIVACY.md follows from PRIVACY.json alone, to the last letter. Whoever changes the
words of a statement keeps the old ones, in a module like ``statement_1``, and raises
the format: releases are checked by the words of their own.
"""

import importlib.metadata
import itertools
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import dpdm_jax
from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    LedgerRecord,
    Selection,
    Tuning,
    accounting,
    statement_fields,
)
from dpdm_jax.privacy.statements import make_statement_of, outside
from dpdm_jax.release import bundle, statement_1

_FORMAT = "dpdm_jax privacy statement 2"
# By the format of the release that they are in.
_FORMATS = dict(zip(bundle.FORMATS, (statement_1.FORMAT, _FORMAT), strict=True))
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "safetensors")


def privacy_fields(
    record: LedgerRecord,
    tuning: Tuning,
    manifest: dict[str, Any],
    metrics: Sequence[str],
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Returns the contents of PRIVACY.json.

    Args:
        record: the ledger of the run.
        tuning: how its settings were chosen.
        manifest: of the release.
        metrics: names of the files with metrics.
        files: SHA-256 of each file that the statement is about.

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
            "files": dict(files),
            "software": _software(),
            "ledgers": [run.to_dict() for run in (record, *tuning.runs)],
        }
    )


def expected_fields(
    statement: dict[str, Any],
    record: LedgerRecord,
    tuning: Tuning,
    manifest: dict[str, Any],
    metrics: Sequence[str],
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Returns what PRIVACY.json must say, in its own format and but for the software.

    Args:
        statement: what it says.
        record: the ledger in it.
        tuning: the tuning in it.
        manifest: of the release.
        metrics: names of the files with metrics.
        files: SHA-256 of each file that the statement is about.

    Raises:
        InputError: its format is not that of the release, or versions are malformed.
    """
    wanted = _FORMATS[manifest["format"]]
    if statement["format"] != wanted:
        raise InputError(
            f"{bundle.PRIVACY} states the format {statement['format']!r} in a release "
            f"of the format {manifest['format']!r}; allowed: {wanted}."
        )
    validate.software(statement["software"], f"{bundle.PRIVACY}: ")
    fields = privacy_fields(record, tuning, manifest, metrics, files)
    fields["software"] = statement["software"]
    # Of whatever format, each says what its record does: ``LedgerRecord.from_dict``.
    fields["ledgers"] = statement["ledgers"]
    if wanted == statement_1.FORMAT:
        fields = statement_1.convert_fields(fields, record)
        if statement["outside"] in statement_1.outside(tuning):
            fields["outside"] = statement["outside"]
    return fields


def read_accounted(fields: dict[str, Any]) -> tuple[LedgerRecord, Tuning]:
    """Returns the ledger and the tuning that PRIVACY.json rests on.

    Raises:
        InputError: they are damaged, or the format is another.
    """
    if fields.get("format") not in _FORMATS.values():
        raise InputError(
            f"{bundle.PRIVACY} states the format {fields.get('format')!r}; allowed: "
            f"{' or '.join(_FORMATS.values())}."
        )
    record, *others = (LedgerRecord.from_dict(ledger) for ledger in fields["ledgers"])
    selection = fields["tuning"]["selection"]
    return record, Tuning(
        tuple(others), None if selection is None else Selection.from_dict(selection)
    )


def privacy_text(record: LedgerRecord, tuning: Tuning, fields: dict[str, Any]) -> str:
    """Returns the contents of PRIVACY.md.

    Args:
        record: the ledger in PRIVACY.json.
        tuning: the tuning in PRIVACY.json.
        fields: the contents of PRIVACY.json, whose figures are taken as they are.
    """
    stated = make_statement_of(
        record,
        tuning,
        spent=_figure(fields["epsilon"]),
        computed_with=fields["software"]["accountant"],
    )
    lines = [
        f"# Privacy of {fields['name']}",
        "",
        stated.to_text(),
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
    lines += ["", "## Files that this is about, by SHA-256", ""]
    lines += [f"- `{name}`: {digest}" for name, digest in fields["files"].items()]
    lines += ["", "## Software", ""]
    lines += [f"- {name} {version}" for name, version in fields["software"].items()]
    return "\n".join(lines) + "\n"


def text_failures(text: str, fields: dict[str, Any]) -> list[str]:
    """Returns a sentence if PRIVACY.md is not what follows from PRIVACY.json.

    Args:
        text: the contents of PRIVACY.md.
        fields: the contents of PRIVACY.json.
    """
    record, tuning = read_accounted(fields)
    if fields["format"] == statement_1.FORMAT:
        wordings = list(statement_1.texts(record, tuning, fields))
    else:
        wordings = [privacy_text(record, tuning, fields)]
    if text in wordings:
        return []
    number, wanted, found = max(_first_difference(each, text) for each in wordings)
    return [
        f"{bundle.PRIVACY_TEXT} does not say {wanted!r} in line {number}, as follows "
        f"from {bundle.PRIVACY}, but {found[:80]!r}."
    ]


def _first_difference(wanted: str, found: str) -> tuple[int, str, str]:
    pairs = itertools.zip_longest(
        wanted.split("\n"), found.split("\n"), fillvalue="(nothing)"
    )
    for number, (one, other) in enumerate(pairs, start=1):
        if one != other:
            return number, one, other
    raise ValueError("the texts are equal.")


def _figure(epsilon: str) -> float:
    """Undoes ``format_epsilon``."""
    return math.inf if epsilon == "infinity" else float(epsilon)


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
    if samples is not None and "prompts" in samples:
        found.append(
            {
                "file": bundle.SAMPLES,
                "what": "it names the prompts that its images were asked for by; if "
                "they are private captions, no epsilon covers them.",
            }
        )
    return found


def _software() -> dict[str, str]:
    return {
        "dpdm_jax": dpdm_jax.__version__,
        "accountant": accounting.accountant_version(),
        "python": platform.python_version(),
    } | {name: importlib.metadata.version(name) for name in _PACKAGES}
