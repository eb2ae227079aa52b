"""Tables of accuracies for people, in plain text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lays out rows, of which the first is the heading, in columns.

    >>> for line in lines([["name", "size"], ["a", "10"]]):
    ...     print(line)
      name  size
      a     10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def accuracy(result: Mapping[str, Any]) -> str:
    """Says an accuracy and its spread over seeds, if there is one.

    Args:
        result: what ``DownstreamResult.to_dict`` returned.
    """
    spread = result["accuracy_std"]
    if spread is None:
        return percent(result["accuracy"])
    return f"{100 * result['accuracy']:.1f} +- {100 * spread:.1f} %"


def percent(fraction: float) -> str:
    """Says a fraction of 1 in percent."""
    return f"{100 * fraction:.1f} %"


def value(setting: Any) -> str:
    """Says a setting."""
    return f"{setting:g}" if isinstance(setting, float) else str(setting)
