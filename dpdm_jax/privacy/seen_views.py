"""How a step sees an image, as plan and ledger state it: for information."""

import dataclasses
from typing import Any

from dpdm_jax import validate
from dpdm_jax.errors import InputError

_FIELDS = {"count", "crop", "flip"}


@dataclasses.dataclass(frozen=True)
class SeenViews:
    """Random views of an image, averaged with its noise draws before the one clip.

    Their number and kind are no part of the privacy analysis (De et al. 2022, arXiv
    2204.13650).

    Attributes:
        count: views of an image in a step, >= 1.
        crop: pixels beyond the edges that a crop may reach, >= 0.
        flip: whether left and right are exchanged half the time.
    """

    count: int
    crop: int
    flip: bool

    def __post_init__(self) -> None:
        for name, minimum in (("count", 1), ("crop", 0)):
            validate.integer(
                f"the views' {name}",
                getattr(self, name),
                minimum=minimum,
                maximum=validate.MAX_COUNT,
            )
        if not isinstance(self.flip, bool) or not (self.crop or self.flip):
            raise InputError(
                f"the views' crop and flip are {self.crop!r} and {self.flip!r}; "
                "allowed: a number of pixels and True or False, not both nothing."
            )

    def __str__(self) -> str:
        kinds = []
        if self.crop:
            pixels = "1 pixel" if self.crop == 1 else f"{self.crop} pixels"
            kinds.append(f"cropped at random, {pixels} beyond its edges")
        if self.flip:
            kinds.append("mirrored half the time")
        views = "1 view" if self.count == 1 else f"{self.count} views"
        return f"{views} of each image, {' and '.join(kinds)}"

    def in_words(self) -> str:
        """Returns a sentence for the statement."""
        return (
            f"Views: a step sees {self}. They are averaged with the noise draws, "
            "before the vector is clipped."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which ``from_dict`` restores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "SeenViews":
        """Returns the views that ``to_dict`` described.

        Raises:
            InputError: a field is missing, unknown or out of range.
        """
        validate.fields("the views", fields, _FIELDS)
        return cls(**fields)
