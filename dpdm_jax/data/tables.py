"""Tables of Arrow's with encoded images, as Hugging Face's data sets come.

Their schemas hold, beside the columns, what Hugging Face's library says of them: which
column has classes, and their names.
"""

import bisect
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dpdm_jax.data import image_folder
from dpdm_jax.data.columns import Column, Made
from dpdm_jax.data.sources import (
    DataSettings,
    Source,
    check_same_names,
    resolve_num_classes,
)
from dpdm_jax.data.stored_images import source_of
from dpdm_jax.data.transforms import Preparation
from dpdm_jax.errors import InputError, reason


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns.

    Attributes:
        image: of PNG or JPEG files: their bytes, or a struct with a field ``bytes``.
        label: of integers; data without it is unlabelled.
    """

    image: str = "image"
    label: str = "label"


class Rows(NamedTuple):
    """Rows of a split's files, one file after another.

    Attributes:
        path: of the files, for messages.
        names: of the rows, likewise.
        columns: those that were asked for, ``ChunkedArray`` by name.
        class_names: of the columns that have such.
    """

    path: str
    names: Sequence[str]
    columns: dict[str, Any]
    class_names: dict[str, list[str]]


def pyarrow_for(source: str) -> Any:
    """Returns pyarrow.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            f"data.source is {source!r}, which needs pyarrow ({reason(error)}); "
            "allowed: pip install 'dpdm_jax[parquet]', or the source image_folder or "
            "npz."
        ) from None
    return pyarrow


class Part(NamedTuple):
    """A file of a split.

    Attributes:
        file: of the part.
        table: the columns that are wanted, as far as it has them.
        held: the names of all columns that it has.
    """

    file: Path
    table: Any
    held: Sequence[str]


def joined(path: Path, parts: Sequence[Part], required: str) -> Rows:
    """Joins the files of a split.

    Args:
        path: of the files, for messages.
        parts: at least one.
        required: a column that each has.

    Raises:
        InputError: one has it not, or there are no rows.
    """
    for part in parts:
        if required not in part.held:
            raise InputError(
                f"{part.file} has no column {required!r}; allowed: "
                f"{', '.join(part.held)}."
            )
    tables = [part.table for part in parts]
    starts = [0, *itertools.accumulate(table.num_rows for table in tables)]
    if not starts[-1]:
        raise InputError(f"{path} has no rows; allowed: at least one image.")

    def name(row: int) -> str:
        number = bisect.bisect_right(starts, row) - 1
        return f"row {row - starts[number]} of {parts[number].file}"

    everywhere = set.intersection(*(set(table.column_names) for table in tables))
    for part in parts:
        for column in everywhere:
            first, found = (
                t.schema.field(column).type for t in (tables[0], part.table)
            )
            if found != first:
                raise InputError(
                    f"the column {column!r} of {part.file} is {found} and that of "
                    f"{parts[0].file} is {first}; allowed: one type in all files."
                )
    chunked = pyarrow_for("parquet").chunked_array
    columns = {
        column: chunked(
            [chunk for table in tables for chunk in table[column].chunks],
            tables[0].schema.field(column).type,
        )
        for column in everywhere
    }
    return Rows(str(path), Made(starts[-1], name), columns, _class_names(tables[0]))


def _class_names(table: Any) -> dict[str, list[str]]:
    """Returns the names of classes that Hugging Face's library has written down."""
    try:
        stored = json.loads((table.schema.metadata or {})[b"huggingface"])
        features = stored["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}  # written by others


def source(
    rows: Rows, settings: Columns, config: DataSettings, folder: Path | None = None
) -> Source:
    """Makes a source of rows.

    Args:
        rows: with the images, and labels if there are such.
        settings: names of columns.
        config: reads num_classes, class_names, on_demand and what ``Preparation`` does.
        folder: of images that rows name by a path; None refuses those.

    Raises:
        InputError: a column is of another type, or an image is damaged or does not fit;
            the message names it.
    """
    content, labels, found = rows.columns[settings.image], None, None
    if config.num_classes != 0 and settings.label in rows.columns:
        labels = _integers(rows, settings.label)
        if names := rows.class_names.get(settings.label):
            check_same_names(config, names, rows.path)
            found = len(names)
    num_classes = config.num_classes
    if found is not None:
        num_classes = resolve_num_classes(num_classes, found, rows.path)
    prepare = Preparation.from_config(config)

    def read(row: int) -> np.ndarray:
        name, stored = rows.names[row], content[row].as_py()
        data = stored.get("bytes") if isinstance(stored, dict) else stored
        if data is None and folder is not None and isinstance(stored, dict):
            data = _file_of(folder, stored.get("path"), name)
        if not isinstance(data, bytes):
            raise InputError(
                f"{name} has no bytes of an image in the column {settings.image!r}; "
                "allowed: images that lie in the files themselves."
            )
        return image_folder.prepared(image_folder.decode(data, name), prepare, name)

    return source_of(
        read,
        labels,
        num_classes,
        names=rows.names,
        name=rows.path,
        on_demand=config.on_demand,
    )


def column(rows: Rows, name: str) -> Column:
    """Returns a column of rows for captions or groups."""
    where = f"the column {name!r} of {rows.path}"
    return Column(rows.columns[name].to_pylist(), rows.names, where)


def _file_of(folder: Path, path: object, name: str) -> bytes | None:
    if not isinstance(path, str):
        return None
    try:
        return (folder / path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{name} names the image {path}, which cannot be read ({reason(error)}); "
            "allowed: images that are there."
        ) from None


def _integers(rows: Rows, column: str) -> np.ndarray:
    types = pyarrow_for("parquet").types
    found = rows.columns[column]
    if types.is_integer(found.type) and not found.null_count:
        return np.asarray(found.to_numpy())
    for name, value in zip(rows.names, found.to_pylist(), strict=True):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{name} has the {column} {value!r}; allowed: an integer.")
    return np.array(found.to_pylist())
