"""Checks of user-given values; each message has the name, the value and the range."""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from dpdm_jax.errors import InputError

#: Counts of examples and steps fit into the integers of NumPy and of files.
MAX_COUNT = 2**63 - 1

_LONGEST = 200
# Nothing that a reader could take for a part of the text that quotes it.
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+!-]{0,79}")


def _shown(value: object) -> str:
    """Returns a value as it is written in code, on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"a value of type {type(value).__name__} too long to be shown"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}... (cut)"


def plain(value: Any) -> Any:
    """Returns a NumPy scalar as Python's own value, and anything else as it is.

    Arithmetic on NumPy's integers wraps around silently, and JSON has none of them.
    """
    return value.item() if isinstance(value, np.generic) else value


def plain_fields(instance: Any) -> None:
    """Replaces the NumPy scalars among the fields of a dataclass in the making.

    Args:
        instance: of a dataclass, frozen or not; changed.
    """
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if isinstance(value, np.generic):
            object.__setattr__(instance, field.name, plain(value))


def one_of(name: str, value: object, allowed: Collection[object]) -> None:
    """Raises InputError unless ``value`` is in ``allowed``."""
    if value not in allowed:
        names = ", ".join(str(a) for a in allowed)
        raise InputError(f"{name} is {_shown(value)}; allowed: {names}.")


def text(name: str, value: object, pattern: re.Pattern[str], in_words: str) -> None:
    """Raises InputError unless ``value`` is a text of a pattern.

    Args:
        name: what the value is called where the user set it.
        value: the value to check.
        pattern: what all of it must match.
        in_words: the pattern for people.
    """
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InputError(f"{name} is {_shown(value)}; allowed: {in_words}.")


def folder_name(name: str, value: object) -> str:
    """Returns the name of one folder; raises InputError if it leads elsewhere.

    Args:
        name: what the value is called where the user set it.
        value: the value to check.
    """
    is_plain = (
        isinstance(value, str)
        and value.isprintable()
        and value not in ("", ".", "..")
        and not set(value) & set("/\\")
    )
    if not is_plain:
        raise InputError(f"{name} is {_shown(value)}; allowed: the name of one folder.")
    return str(value)


def fields(what: str, value: object, allowed: Collection[str]) -> None:
    """Raises InputError unless ``value`` is a dict of exactly the allowed fields.

    Args:
        what: whose fields they are, with its article.
        value: the value to check.
        allowed: their names.
    """
    if not isinstance(value, dict) or set(value) != set(allowed):
        raise InputError(
            f"the contents are malformed: the fields of {what} are not "
            f"{', '.join(sorted(allowed))}."
        )


def software(value: object, where: str = "") -> None:
    """Raises InputError unless ``value`` is a dict of packages and their versions.

    Args:
        value: the value to check.
        where: what messages begin with.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}software is no list of names and versions.")
    for part in (*value, *value.values()):
        text(f"{where}of the software", part, _VERSION, "names and versions")


def integer(
    name: str, value: object, *, minimum: int, maximum: int | None = None
) -> int:
    """Raises InputError unless ``value`` is an integer (no bool) in the stated range.

    Args:
        name: what the value is called where the user set it.
        value: the value to check, an int or a NumPy integer.
        minimum: inclusive lower bound.
        maximum: inclusive upper bound; None for none.

    Returns:
        The value as an int, whose arithmetic is exact.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InputError(
            f"{name} is {_shown(value)}; allowed: an integer >= {minimum}."
        )
    if maximum is not None and value > maximum:
        raise InputError(
            f"{name} is {_shown(value)}; allowed: an integer <= {maximum}."
        )
    return value


def seed(name: str, value: object) -> int:
    """Returns the int that JAX makes a key of; raises InputError if it is none."""
    number = integer(name, value, minimum=0)
    if number >= 2**63:
        raise InputError(
            f"{name} is {_shown(number)}; allowed: an integer below 2**63."
        )
    return number


def real(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    minimum: float = -math.inf,
    below: float = math.inf,
    maximum: float = math.inf,
    allow_inf: bool = False,
) -> None:
    """Raises InputError unless ``value`` is a real number in the stated range.

    Args:
        name: what the value is called where the user set it.
        value: the value to check, Python's or NumPy's; NaN is never allowed.
        above: exclusive lower bound.
        minimum: inclusive lower bound.
        below: exclusive upper bound.
        maximum: inclusive upper bound.
        allow_inf: whether infinity is a legal value (it still obeys the bounds).
    """
    bounds = [
        f"> {above:g}" if above > -math.inf else "",
        f">= {minimum:g}" if minimum > -math.inf else "",
        f"< {below:g}" if below < math.inf else "",
        f"<= {maximum:g}" if maximum < math.inf else "",
    ]
    wanted = " and ".join(b for b in bounds if b) or "any"
    kind = "a number" if allow_inf else "a finite number"
    value = plain(value)
    message = f"{name} is {_shown(value)}; allowed: {kind} {wanted}."
    try:
        number = float(value)  # type: ignore[arg-type]  # tried
    except (OverflowError, TypeError, ValueError):
        raise InputError(message) from None
    if isinstance(value, (bool, str, bytes)) or math.isnan(number):
        raise InputError(message)
    if math.isinf(number):
        if allow_inf and number > 0 and below == maximum == math.inf:
            return
        raise InputError(message)
    if number <= above or number < minimum or number >= below or number > maximum:
        raise InputError(message)
