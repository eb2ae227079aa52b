"""The results of evaluations as one table: a row a metric, a column a sample set."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dpdm_jax.report.explanations import EXPLANATIONS, Explanation

# What may stand beside a metric's number, under its name and a suffix.
_COMPARED = {
    "_floor": "floor, real against real",
    "_ensemble": "the trainings as one ensemble",
    "_real": "trained on real images",
    "_real_ensemble": "these as one ensemble",
    "_dp_sgd": "trained on real images by DP-SGD at the same epsilon",
    "_real_test": "of real test images",
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A measured number.

    Attributes:
        value: the number with its spread; "-" where it was not measured.
        notes: what to compare it with.
    """

    value: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric.

    Attributes:
        name: in the files of results.
        explanation: what it means.
        cells: one a column.
    """

    name: str
    explanation: Explanation
    cells: tuple[Cell, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """All metrics of all sample sets.

    Attributes:
        columns: names of the evaluations that have a metric.
        counts: below each, how many images were compared.
        rows: those metrics that some column has.
        caveats: each once.
    """

    columns: tuple[str, ...]
    counts: tuple[str, ...]
    rows: tuple[Row, ...]
    caveats: tuple[str, ...]


def metrics_table(evaluations: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lays out what evaluations measured.

    Args:
        evaluations: under names, results as ``evaluation.metrics.measure`` returns
            them.

    Returns:
        The table; without rows and columns if there are no metrics.
    """
    columns = tuple(
        column
        for column, results in evaluations.items()
        if not EXPLANATIONS.keys().isdisjoint(results)
    )
    rows = tuple(
        Row(
            name,
            explanation,
            tuple(_cell(name, evaluations[column]) for column in columns),
        )
        for name, explanation in EXPLANATIONS.items()
        if any(name in evaluations[column] for column in columns)
    )
    return Table(
        columns=columns,
        counts=tuple(_counts(evaluations[column]) for column in columns),
        rows=rows,
        caveats=_caveats({column: evaluations[column] for column in columns}),
    )


def _cell(name: str, results: Mapping[str, Any]) -> Cell:
    if name not in results:
        return Cell("-")
    percent = EXPLANATIONS[name].percent
    details = results.get("details")
    details = details if isinstance(details, Mapping) else {}
    notes = [
        f"{label}: {_number(results, name + suffix, percent=percent)}"
        for suffix, label in _COMPARED.items()
        if name + suffix in results
    ]
    measured = details.get(name)
    if isinstance(measured, Mapping):
        notes += _copies(measured)
        notes += _of_each_class(measured)
        if isinstance(measured.get("accuracies"), list):
            count = len(measured["accuracies"])
            notes.append(f"{count} training{'s' * (count != 1)}")
    return Cell(_number(results, name, percent=percent), tuple(notes))


def _number(results: Mapping[str, Any], name: str, *, percent: bool) -> str:
    value = _format(results[name], percent=percent)
    if results.get(f"{name}_std") is not None:
        spread = _format(results[f"{name}_std"], percent=percent, digits=2)
        value += f"\N{NO-BREAK SPACE}± {spread}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{value}\N{NO-BREAK SPACE}%" if percent else value


def _format(value: Any, *, percent: bool, digits: int = 4) -> str:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "not a number"
    if percent:
        return f"{100 * value:.1f}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def _copies(measured: Mapping[str, Any]) -> list[str]:
    notes = []
    for space in ("features", "pixels"):
        found = measured.get(space)
        if not isinstance(found, Mapping):
            continue
        notes.append(
            f"by {space}: {_format(found.get('auc'), percent=False)}, "
            f"{found.get('exact_copies')} exact copies "
            f"({found.get('exact_copies_held_out')} among fresh images)"
        )
    return notes


def _of_each_class(measured: Mapping[str, Any]) -> list[str]:
    shares = measured.get("of_each_class")
    if not isinstance(shares, Mapping) or not shares:
        return []
    listed = ", ".join(
        f"{label}: {_format(share, percent=True)}" for label, share in shares.items()
    )
    return [f"by class, in percent: {listed}"]


def _counts(results: Mapping[str, Any]) -> str:
    parts = [
        f"{results[key]} {label}"
        for key, label in (
            ("num_synthetic", "synthetic"),
            ("num_real", "real"),
            ("num_real_test", "test"),
        )
        if key in results
    ]
    return ", ".join(parts)


def _caveats(evaluations: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Says of a caveat which columns it is about, unless it is about all."""
    found: dict[str, list[str]] = {}
    for column, results in evaluations.items():
        caveats = results.get("caveats")
        for caveat in caveats if isinstance(caveats, list) else ():
            found.setdefault(str(caveat), []).append(column)
    return tuple(
        caveat
        if len(columns) == len(evaluations)
        else f"{', '.join(columns)}: {caveat}"
        for caveat, columns in found.items()
    )
