"""Where a run's first weights come from, and under which guarantee."""

import dataclasses
import re
from typing import Any

from dpdm_jax import validate
from dpdm_jax.errors import InputError

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Statements quote names: nothing that a reader could take for a part of the statement.
NAME = (
    re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,:;'()_/&+-]{0,99}"),
    "up to 100 letters, digits, blanks and . , : ; ' ( ) _ / & + -",
)
_KINDS = ("run", "release", "file", "folder")
_FIELDS = {"kind", "name", "sha256", "public_data", "ledger"}


@dataclasses.dataclass(frozen=True)
class Origin:
    """The model whose weights a run, or its codec, began with.

    Attributes:
        kind: "run" (a checkpoint), "release", "file" or "folder".
        name: what it is called.
        sha256: of the weights that were taken, 64 hexadecimal digits.
        public_data: what public data it was trained on; "" if that was private data of
            others, which its ``ledger`` counts.
        ledger: of a private model, the JSON values of its ledger; None of public data.
    """

    kind: str
    name: str
    sha256: str
    public_data: str
    ledger: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        validate.one_of("the origin's kind", self.kind, _KINDS)
        validate.text("the origin's name", self.name, *NAME)
        validate.text(
            "the origin's sha256", self.sha256, _SHA256, "64 hexadecimal digits"
        )
        if self.public_data != "":
            validate.text("the origin's public data", self.public_data, *NAME)
        if (self.ledger is None) != bool(self.public_data):
            raise InputError(
                "the origin has a ledger and public data, or neither; allowed: one."
            )

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.sha256[:12]})"

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which ``from_dict`` restores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Origin":
        """Returns the origin that ``to_dict`` described.

        Raises:
            InputError: a field is missing, unknown or out of range.
        """
        validate.fields("an origin", fields, _FIELDS)
        return cls(**fields)
