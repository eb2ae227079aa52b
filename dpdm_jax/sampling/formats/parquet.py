"""Parquet, as Hugging Face's data sets come: images and names of classes are shown.

Columns ``image`` (a PNG file in a struct), ``label`` or ``text``; the schema says what
they are, in the words of ``datasets.Features``. ``data.source=parquet`` reads them.
"""

import json
import pathlib
from typing import Any

from dpdm_jax.errors import InputError, reason
from dpdm_jax.sampling import images
from dpdm_jax.sampling.formats.base import ImageSet, Place

PART_SIZE = 10_000
IS_COMPACT = True


def require() -> None:
    """Raises InputError if pyarrow is missing."""
    _import_pyarrow()


def write(folder: pathlib.Path, whole: ImageSet, part: Place) -> None:
    """See ``Format``."""
    arrow, parquet = _import_pyarrow()
    chosen = range(part.first, part.stop)
    image_type = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    fields = [("image", image_type)]
    columns: list[list[Any]] = [
        [{"bytes": images.png(whole.images[i]), "path": f"{i:07d}.png"} for i in chosen]
    ]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if whole.labels is not None:
        fields.append(("label", arrow.int64()))
        columns.append([int(whole.labels[i]) for i in chosen])
        features["label"] = {"names": list(whole.class_names), "_type": "ClassLabel"}
    if whole.texts is not None:
        fields.append(("text", arrow.string()))
        columns.append([str(whole.texts[i]) for i in chosen])
        features["text"] = {"dtype": "string", "_type": "Value"}
    about = json.dumps({"info": {"features": features}})
    schema = arrow.schema(fields, metadata={"huggingface": about})
    table = arrow.table(
        [arrow.array(c, t) for c, (_, t) in zip(columns, fields, strict=True)],
        schema=schema,
    )
    # Small groups of rows: a viewer reads few images at a time.
    parquet.write_table(table, folder / f"{part.name}.parquet", row_group_size=1000)


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"sample.formats has 'parquet', which needs pyarrow ({reason(error)}); "
            "allowed: pip install 'dpdm_jax[parquet]', or png, webdataset."
        ) from None
    return pyarrow, pyarrow.parquet
