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
        number: the number itself; None where it was not measured, or is not finite.
    """

    value: str
    notes: tuple[str, ...] = ()
    number: float | None = None


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


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of the images of a class.

    Attributes:
        percent: of a bar, 0 to 100.
        text: the same for people.
    """

    percent: float
    text: str


@dataclasses.dataclass(frozen=True)
class ByClass:
    """What an evaluation measured of each class.

    Attributes:
        column: name of the evaluation.
        titles: of the metrics.
        rows: classes in the order of their labels, each with a share a metric; None
            where it was not measured.
    """

    column: str
    titles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Share | None, ...]], ...]


def by_class(evaluations: Mapping[str, Mapping[str, Any]]) -> list[ByClass]:
    """Lays out what evaluations measured of each class.

    Args:
        evaluations: as of ``metrics_table``.

    Returns:
        A table for each evaluation that has something of the kind.
    """
    tables = []
    for column, results in evaluations.items():
        found = {
            explanation: shares
            for name, explanation in EXPLANATIONS.items()
            if (shares := _shares(results, name))
        }
        labels = {label for shares in found.values() for label in shares}
        rows = tuple(
            (label, tuple(_share(shares.get(label)) for shares in found.values()))
            for label in sorted(labels, key=_in_order)
        )
        if rows:
            groups = [explanation.group for explanation in found]
            titles = tuple(
                f"{each.title} ({each.group})" if len(set(groups)) > 2 else each.title
                for each in found
            )
            tables.append(ByClass(column, titles, rows))
    return tables


def _shares(results: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = results.get("details")
    measured = details.get(name) if isinstance(details, Mapping) else None
    shares = measured.get("of_each_class") if isinstance(measured, Mapping) else None
    return shares if isinstance(shares, Mapping) else {}


def _share(value: Any) -> Share | None:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    percent = min(100.0, max(0.0, 100 * value))
    return Share(round(percent, 1), f"{100 * value:.1f}\N{NO-BREAK SPACE}%")


def _in_order(label: str) -> tuple[int, str]:
    return (int(label) if label.isdigit() else -1, label)


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
        if isinstance(measured.get("accuracies"), list):
            count = len(measured["accuracies"])
            notes.append(f"{count} training{'s' * (count != 1)}")
    value = results[name]
    number = value if isinstance(value, (int, float)) and math.isfinite(value) else None
    return Cell(_number(results, name, percent=percent), tuple(notes), number)


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
