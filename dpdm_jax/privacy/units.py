"""What the guarantee is for: one image, or a group with all of its images.

A group is, for example, a patient. Whatever the number of its images, it is drawn by
one coin flip a step, and contributes one vector of bounded norm.
"""

import dataclasses
import re
from typing import Any

from dpdm_jax import validate

# Statements quote it: nothing that a reader could take for a part of the statement.
COLUMN = (
    re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,39}"),
    "up to 40 letters, digits, blanks, _ and -",
)
_FIELDS = {"column", "images"}


@dataclasses.dataclass(frozen=True)
class Group:
    """A unit of privacy of several images: all with one value of a column.

    Attributes:
        column: of the data, which says whose an image is; public.
        images: how many of a sampled group's images enter a step at most, >= 1.

    Raises:
        InputError: a field is out of range.
    """

    column: str
    images: int

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        validate.text("the column of groups", self.column, *COLUMN)
        validate.integer(
            "the images of a group in a step",
            self.images,
            minimum=1,
            maximum=validate.MAX_COUNT,
        )

    def __str__(self) -> str:
        return f"group by {self.column} ({self.images} images a step at most)"

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which ``from_dict`` restores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Group":
        """Returns the unit that ``to_dict`` described.

        Raises:
            InputError: a field is missing, unknown or out of range.
        """
        validate.fields("the unit of privacy", fields, _FIELDS)
        return cls(**fields)


def noun(unit: Group | None) -> str:
    """Returns what a unit is called: "image" or "group".

    Args:
        unit: of a plan; None for one image.
    """
    return "image" if unit is None else "group"


def a_noun(unit: Group | None) -> str:
    """Returns it with its article: "an image" or "a group".

    Args:
        unit: of a plan; None for one image.
    """
    return "an image" if unit is None else "a group"


def in_words(unit: Group | None) -> str:
    """Returns what one unit is, for statements and reports.

    Args:
        unit: of a plan; None for one image.
    """
    if unit is None:
        return "one training image"
    return f"one group, all training images with one value of {unit.column}"
