"""The tables beside image files: metadata.csv and metadata.jsonl.

The layout of Hugging Face's image folders: a row an image, whose column ``file_name``
has the image's path.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dpdm_jax import json_values
from dpdm_jax.errors import InputError, reason

NAMES = ("metadata.csv", "metadata.jsonl")
_FILE = "file_name"


def read(folder: Path, column: str) -> tuple[Path, dict[str, Any]]:
    """Reads a column of a folder's table.

    Args:
        folder: which has one of the tables.
        column: to read, of texts or integers.

    Returns:
        The table's path, and what the column has by ``file_name``; None where a row has
        nothing.

    Raises:
        InputError: there is no table, or there are two; it is damaged, lacks a column,
            or lists a file twice.
    """
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) != 1:
        raise InputError(
            f"{folder} has {' and '.join(NAMES) if found else 'no metadata.csv'}; "
            f"allowed for captions and groups: one of {', '.join(NAMES)}."
        )
    (table,) = found
    values: dict[str, Any] = {}
    rows = _csv_rows if table.suffix == ".csv" else _json_rows
    try:
        for number, row in enumerate(rows(table), 1):
            where = f"Row {number} of {table}"
            for key in (_FILE, column):
                if key not in row:
                    raise InputError(
                        f"{where} has no column {key!r}; allowed: {_FILE}, and those "
                        "that data.captions.column and data.group name."
                    )
            name = row[_FILE]
            if name is not None and not isinstance(name, str):
                raise InputError(f"{where} has the {_FILE} {name!r}; allowed: a text.")
            if not name or name in values:
                what = f"{_FILE} {name!r} again" if name else f"no {_FILE}"
                raise InputError(f"{where} has {what}; allowed: a row for each image.")
            values[name] = _checked(row[column], column, where)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{table} cannot be read ({reason(error)}); allowed: a table in UTF-8, "
            "with commas, or one JSON object a line."
        ) from None
    return table, values


def _csv_rows(table: Path) -> Iterator[Mapping[str, Any]]:
    # Spreadsheets begin UTF-8 with a mark.
    with table.open(newline="", encoding="utf-8-sig") as lines:
        yield from csv.DictReader(lines, strict=True)


def _json_rows(table: Path) -> Iterator[Mapping[str, Any]]:
    with table.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                row = json_values.loads(line)
                yield row if isinstance(row, dict) else {}


def _checked(value: Any, column: str, where: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise InputError(
            f"{where} has the {column} {str(value)[:80]!r}; allowed: a text or an "
            "integer."
        )
    return value
