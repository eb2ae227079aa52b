"""Queries of all examples, as plan and ledger count and statements word them."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from dpdm_jax import validate
from dpdm_jax.privacy import accounting, class_moments, units
from dpdm_jax.privacy.batch_selection import PoissonSampling

# Statements quote names: nothing that a reader could take for a part of the statement.
NAME = (
    re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,39}"),
    "up to 40 letters, digits, blanks, _ and -",
)
_FIELDS = {"name", "count", "noise_multiplier"}


@dataclasses.dataclass(frozen=True)
class Query:
    """Sums over all examples, each under Gaussian noise, before the first step.

    An example adds one vector of L2 norm at most 1 to each sum.

    Attributes:
        name: what it is for people, for example "moments".
        count: how many sums, >= 1.
        noise_multiplier: sigma of each, > 0.
    """

    name: str
    count: int
    noise_multiplier: float

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        validate.text("the query's name", self.name, *NAME)
        validate.integer(
            f"the number of sums of the query {self.name}",
            self.count,
            minimum=1,
            maximum=validate.MAX_COUNT,
        )
        validate.real(
            f"the noise_multiplier of the query {self.name}",
            self.noise_multiplier,
            above=0,
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.count} sums at {self.noise_multiplier!r})"

    def event(self, coordinates: int | None) -> accounting.Event:
        """Returns the query as the accountant takes it.

        Args:
            coordinates: numbers in each sum at most; None leaves arithmetic out.
        """
        return accounting.Event(
            PoissonSampling(1.0, self.count),
            self.noise_multiplier,
            self.count,
            coordinates,
        )

    def in_words(self, unit: units.Group | None = None) -> str:
        """Returns a sentence or two for the statement.

        Args:
            unit: of privacy; None for one image.
        """
        mean = "" if unit is None else ", the mean over its images,"
        purpose = _PURPOSES.get(self.name, _of_any)(self.count)
        number = "1 query" if self.count == 1 else f"{self.count} queries"
        return (
            f"{self.name.capitalize()}: before the first step, {number} of all "
            f"images {purpose}. {units.a_noun(unit).capitalize()} contributes one "
            f"vector{mean} of L2 norm at most 1 to each; noise: Gaussian, noise "
            f"multiplier sigma = {self.noise_multiplier!r}. They are counted from the "
            "start."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which ``from_dict`` restores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Query":
        """Returns the query that ``to_dict`` described.

        Raises:
            InputError: a field is missing, unknown or out of range.
        """
        validate.fields("a query", fields, _FIELDS)
        return cls(**fields)


def _of_any(count: int) -> str:
    return "was made" if count == 1 else "were made"


#: What queries of a name found, by their number: the end of "2 queries of all images".
_PURPOSES: dict[str, Callable[[int], str]] = {
    class_moments.NAME: class_moments.purpose,
}
