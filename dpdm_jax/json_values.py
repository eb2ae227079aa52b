"""The one way in which JSON is read and written.

What is ambiguous is refused. Infinity and NaN, which JSON lacks, are the texts "inf"
and "nan", which Python's ``float`` reads.
"""

import json
import math
from typing import Any, NoReturn

from dpdm_jax import validate


def loads(text: str | bytes) -> Any:
    """Reads JSON that says one thing, to people and to every program.

    Python's reader takes the last of two fields of one name, and takes words and
    numbers that are infinite or none at all.

    Args:
        text: the contents of a file; bytes are UTF-8, 16 or 32.

    Returns:
        JSON values, every number finite.

    Raises:
        ValueError: it is no JSON, has a field twice, or a number that is out of range;
            the message is a sentence without "allowed".
    """
    try:
        return json.loads(
            text,
            object_pairs_hook=_unambiguous,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:
        raise ValueError("the values are nested too deeply.") from None


def encode(value: Any) -> Any:
    """Turns values into those that JSON has: lists, texts as names, "inf" and "nan"."""
    value = validate.plain(value)
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Returns the JSON text of values that need not be those that JSON has."""
    return json.dumps(encode(value), indent=indent, allow_nan=False)


def decode(value: Any) -> Any:
    """Undoes ``encode``: tuples for lists, and infinity."""
    if isinstance(value, dict):
        return {k: decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(decode(v) for v in value)
    if value in ("inf", "-inf"):
        return float(value)
    return value


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        (twice, *_) = (name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice[:80]!r} is there twice.")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:80]} is out of range.")
    return value
