"""Checks of user-given values; each message has the name, the value and the range."""

import math
import re
from collections.abc import Collection

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
) -> None:
    """Raises InputError unless ``value`` is an int (not a bool) in the stated range.

    Args:
        name: what the value is called where the user set it.
        value: the value to check.
        minimum: inclusive lower bound.
        maximum: inclusive upper bound; None for none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InputError(
            f"{name} is {_shown(value)}; allowed: an integer >= {minimum}."
        )
    if maximum is not None and value > maximum:
        raise InputError(
            f"{name} is {_shown(value)}; allowed: an integer <= {maximum}."
        )


def seed(name: str, value: object) -> None:
    """Raises InputError unless ``value`` is an int that JAX makes a key of."""
    integer(name, value, minimum=0)
    assert isinstance(value, int)
    if value >= 2**63:
        raise InputError(f"{name} is {_shown(value)}; allowed: an integer below 2**63.")


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
        value: the value to check; NaN is never allowed.
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
    message = f"{name} is {_shown(value)}; allowed: {kind} {wanted}."
    try:
        number = float(value)  # type: ignore[arg-type]  # tried
    except (OverflowError, TypeError, ValueError):
        raise InputError(message) from None
    if isinstance(value, (bool, str)) or math.isnan(number):
        raise InputError(message)
    if math.isinf(number):
        if allow_inf and number > 0 and below == maximum == math.inf:
            return
        raise InputError(message)
    if number <= above or number < minimum or number >= below or number > maximum:
        raise InputError(message)
