"""What metrics find, and how their findings are put together."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Measured:
    """What metrics found, as JSON has values.

    Attributes:
        numbers: by the metric's name: its number under "", and beside it others under
            the endings that their names have: "_std" for its spread, "_floor" for what
            perfect images could score, and so on.
        settings: what the numbers depend on.
        details: by the metric's name, what else its owner may want to see.
        caveats: what readers could get wrong, each a sentence without full stop.
    """

    numbers: Mapping[str, Mapping[str, float | None]] = dataclasses.field(
        default_factory=dict
    )
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    caveats: tuple[str, ...] = ()


def merged(parts: Iterable[Measured]) -> Measured:
    """Puts findings together, in their order; of equal caveats one is left."""
    parts = list(parts)
    return Measured(
        {name: found for part in parts for name, found in part.numbers.items()},
        {name: value for part in parts for name, value in part.settings.items()},
        {name: value for part in parts for name, value in part.details.items()},
        tuple(dict.fromkeys(caveat for part in parts for caveat in part.caveats)),
    )
