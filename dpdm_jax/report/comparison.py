"""Several runs on one page: pictures, budgets, what differs, metrics and curves."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import markupsafe

from dpdm_jax import run_dir
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation.words import HIGHER, LOWER
from dpdm_jax.privacy import LedgerRecord, Statement, Tuning, format_epsilon
from dpdm_jax.report import curves
from dpdm_jax.report.contents import Contents
from dpdm_jax.report.metrics_table import Cell, Row, metrics_table
from dpdm_jax.report.page import (
    CURVE_TITLES,
    class_names,
    flat,
    in_order,
    name_of,
    privacy_facts,
    read_run,
    reason_of,
    sample_facts,
    write_page,
)

_NOT_MEASURED = Cell("-")
_Run = tuple[Contents, Statement | None]


def write_comparison(
    workdirs: Sequence[pathlib.Path], folder: pathlib.Path, *, private: bool = True
) -> pathlib.Path:
    """Writes one HTML page about several runs; it loads nothing and runs no script.

    Args:
        workdirs: the run directories, 2 to ``curves.MAX_CURVES``, in the page's order.
        folder: where to write it.
        private: as of ``write_report``: True writes <folder>/comparison.html, with
            metrics and curves, readable by its owner alone; False writes
            <folder>/comparison_public.html and opens no private file.

    Returns:
        The file that was written.

    Raises:
        InputError: there are fewer or more, or one twice; one is no run directory, or
            its ledger is damaged; or a public page is asked for of a run that has no
            privacy guarantee.
    """
    if not 2 <= len(workdirs) <= curves.MAX_CURVES:
        raise InputError(
            f"{len(workdirs)} run directories are to be compared; allowed: 2 to "
            f"{curves.MAX_CURVES}."
        )
    counts = collections.Counter(workdir.resolve() for workdir in workdirs)
    ((most, count),) = counts.most_common(1)
    if count > 1:
        raise InputError(
            f"The run directory {most} is to be compared with itself; allowed: each "
            "one once."
        )
    runs = [read_run(workdir, private=private) for workdir in workdirs]
    path = folder / (run_dir.COMPARISON if private else run_dir.PUBLIC_COMPARISON)
    facts = _facts(runs, private=private)
    write_page(path, "comparison.html", facts, private=private)
    return path


def _facts(runs: Sequence[_Run], *, private: bool) -> dict[str, Any]:
    """Returns what the template shows."""
    names = _names([contents for contents, _ in runs])
    settings, num_equal = _settings([contents for contents, _ in runs])
    evaluations = [_first_evaluation(contents) for contents, _ in runs]
    return {
        "runs": [
            _run_facts(name, *run, evaluation)
            for name, run, evaluation in zip(names, runs, evaluations, strict=True)
        ],
        "budgets": _budgets(runs),
        "together": _together(runs),
        "settings": settings,
        "num_equal": num_equal,
        "private": {
            "rows": _rows(evaluations),
            "curves": _curves([contents for contents, _ in runs]),
        }
        if private
        else None,
        "problems": [
            f"{name}: {problem}"
            for name, (contents, _) in zip(names, runs, strict=True)
            for problem in contents.problems
        ],
    }


def _names(runs: Sequence[Contents]) -> list[str]:
    """Returns what tells runs apart: names, folders, or else numbers."""
    for names in ([name_of(run) for run in runs], [run.folder for run in runs]):
        if len(set(names)) == len(names):
            return names
    return [f"{number}. {name_of(run)}" for number, run in enumerate(runs, 1)]


def _run_facts(
    name: str,
    contents: Contents,
    statement: Statement | None,
    evaluation: tuple[str, dict[str, Any]],
) -> dict[str, Any]:
    privacy = None
    if contents.ledger is not None and statement is not None:
        privacy = privacy_facts(contents.ledger, statement)
    return {
        "name": name,
        "verdict": "PRIVACY UNKNOWN" if privacy is None else privacy["verdict"],
        "reason": reason_of(statement),
        "samples": sample_facts(contents.samples[0], class_names(contents))
        if contents.samples
        else None,
        "measured": evaluation[0],
    }


def _budgets(runs: Sequence[_Run]) -> list[tuple[str, list[str]]]:
    columns = [
        {} if contents.ledger is None else _budget(contents.ledger, statement)
        for contents, statement in runs
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, [column.get(name, "-") for column in columns]) for name in names]


def _budget(record: LedgerRecord, statement: Statement | None) -> dict[str, str]:
    assert statement is not None  # of the ledger
    plan, facts = record.plan, privacy_facts(record, statement)
    spent = facts["verdict"] if statement.not_private else f"ε = {facts['epsilon']}"
    return {
        "epsilon spent": spent,
        "budget": format_epsilon(plan.target_epsilon),
        "delta": repr(plan.delta),
        "one example is": facts["unit"] if plan.unit else "one training image",
        "examples": f"{plan.num_examples:,}",
        "steps taken": f"{record.authorized_steps:,} of {plan.total_steps:,}",
        "sampling probability": f"{plan.sampling.sampling_probability:.6g}",
        "noise multiplier": f"{plan.noise_multiplier:.6g}",
        "clipping bound C": f"{plan.l2_clip_norm:g}",
        "training began with": facts["began_with"],
    }


def _together(runs: Sequence[_Run]) -> dict[str, str] | None:
    """Returns what all runs spend together; None where there is no such figure."""
    records = [contents.ledger for contents, _ in runs]
    first, *others = records
    if first is None or any(reason_of(statement) for _, statement in runs):
        return None
    try:
        epsilon = Tuning(tuple(r for r in others if r is not None)).epsilon(first)
    except InputError:  # of other units, for example
        return None
    return {"epsilon": format_epsilon(epsilon), "delta": repr(first.plan.delta)}


def _settings(runs: Sequence[Contents]) -> tuple[list[tuple[str, list[str]]], int]:
    """Returns the settings that differ, and how many are equal."""
    columns = [dict(flat(contents.config or {})) for contents in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    names.pop("name", None)  # heads the column
    rows = [(name, [column.get(name, "-") for column in columns]) for name in names]
    differing = [(name, values) for name, values in rows if len(set(values)) > 1]
    return differing, len(rows) - len(differing)


def _first_evaluation(contents: Contents) -> tuple[str, dict[str, Any]]:
    """Returns the evaluation of the samples that the config names, and its name."""
    if contents.private is None or not contents.private.evaluations:
        return "", {}
    return next(iter(contents.private.evaluations.items()))


def _rows(
    evaluations: Sequence[tuple[str, dict[str, Any]]],
) -> list[tuple[Row, set[int]]]:
    """Returns each metric with the columns of its best figure."""
    # By numbers: names of runs may be the same.
    columns = {str(i): results for i, (_, results) in enumerate(evaluations)}
    table = metrics_table(columns)
    rows = []
    for row in table.rows:
        measured = dict(zip(table.columns, row.cells, strict=True))
        cells = tuple(measured.get(column, _NOT_MEASURED) for column in columns)
        found = {i: c.number for i, c in enumerate(cells) if c.number is not None}
        choose = {HIGHER: max, LOWER: min}.get(row.explanation.better)
        best = set()
        if choose is not None and len(set(found.values())) > 1:
            best = {i for i, x in found.items() if x == choose(found.values())}
        rows.append((dataclasses.replace(row, cells=cells), best))
    return rows


def _curves(runs: Sequence[Contents]) -> list[dict[str, Any]]:
    found = [run.private.curves if run.private is not None else {} for run in runs]
    names = in_order(name for each in found for name in each)
    return [
        {
            "title": CURVE_TITLES.get(name, name),
            # Made from numbers and our own words alone.
            "svg": markupsafe.Markup(
                curves.draw_together(
                    f"curve_{number}", [each.get(name, []) for each in found]
                )
            ),
        }
        for number, name in enumerate(names)
    ]
