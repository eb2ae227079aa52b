"""How much of a network a run trains, as plan and ledger state it."""

import dataclasses
import re
from typing import Any

from dpdm_jax import validate

# Statements quote it: nothing that a reader could take for a part of the statement.
_SELECTOR = (
    re.compile(r"[A-Za-z0-9_:,*?/!.\[\]-]{1,200}"),
    "up to 200 letters, digits and _ : , * ? / ! . [ ] -",
)
_FIELDS = {"selector", "parameters", "adapters", "of"}


@dataclasses.dataclass(frozen=True)
class TrainedPart:
    """A part of a network, which steps train alone.

    Attributes:
        selector: by which it was chosen, as a config has it.
        parameters: numbers that are trained, >= 1.
        adapters: those of them that are no numbers of the network but of low-rank
            adapters, whose products are added to its weights, >= 0.
        of: numbers of the network, trained or not, >= 1.
    """

    selector: str
    parameters: int
    adapters: int
    of: int

    def __post_init__(self) -> None:
        validate.text("the selector of what is trained", self.selector, *_SELECTOR)
        for name, minimum in (("parameters", 1), ("adapters", 0), ("of", 1)):
            validate.integer(
                f"the trained part's {name}",
                getattr(self, name),
                minimum=minimum,
                maximum=validate.MAX_COUNT,
            )

    def __str__(self) -> str:
        return f"{self.parameters} of {self.of} ({self.selector})"

    def in_words(self) -> str:
        """Returns a sentence for the statement."""
        adapters = ""
        if self.adapters:
            adapters = (
                f" {self.adapters} of them are those of low-rank adapters, whose "
                "products are added to weights of the network."
            )
        return (
            f"Trained: {self.parameters} parameters, chosen by {self.selector}, for a "
            f"network of {self.of}; no step changed others.{adapters}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which ``from_dict`` restores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "TrainedPart":
        """Returns the part that ``to_dict`` described.

        Raises:
            InputError: a field is missing, unknown or out of range.
        """
        validate.fields("the trained part", fields, _FIELDS)
        return cls(**fields)
