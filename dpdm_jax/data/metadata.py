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


def read(folder: Path, column: str) -> tuple[Path, dict[str, str | None]]:
    """Reads a column of a folder's table.

    Args:
        folder: which has one of the tables.
        column: to read, of texts.

    Returns:
        The table's path, and the column's texts by ``file_name``; None where a row has
        none.

    Raises:
        InputError: there is no table, or there are two; it is damaged, lacks a column,
            or lists a file twice.
    """
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) != 1:
        raise InputError(
            f"{folder} has {' and '.join(NAMES) if found else 'no metadata.csv'}; "
            f"allowed for captions: one of {', '.join(NAMES)}."
        )
    (table,) = found
    texts: dict[str, str | None] = {}
    rows = _csv_rows if table.suffix == ".csv" else _json_rows
    try:
        for number, row in enumerate(rows(table), 1):
            name, text = (_text(row, key, number, table) for key in (_FILE, column))
            if not name or name in texts:
                what = f"{_FILE} {name!r} again" if name else f"no {_FILE}"
                raise InputError(
                    f"Row {number} of {table} has {what}; allowed: a row for each "
                    "image."
                )
            texts[name] = text
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{table} cannot be read ({reason(error)}); allowed: a table in UTF-8, "
            "with commas, or one JSON object a line."
        ) from None
    return table, texts


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


def _text(row: Mapping[str, Any], column: str, number: int, table: Path) -> str | None:
    if column not in row:
        raise InputError(
            f"Row {number} of {table} has no column {column!r}; allowed: {_FILE}, and "
            "that of data.captions.column."
        )
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise InputError(
            f"Row {number} of {table} has the {column} {str(value)[:80]!r}; allowed: a "
            "text."
        )
    return value
