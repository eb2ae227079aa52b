"""What the modules of a network say of their parameters, for training a part of them.

A module's class may have

- ``role``: what it is, one of ``ROLES``;
- ``adapted``: names of those of its layers, made by ``layers.dense``, that get low-rank
  adapters (see ``adapters``);
- ``inert(tokens)``: names of what in it the loss has no gradient by where the condition
  is attended to as so many tokens.
"""

import dataclasses
from typing import Any, NamedTuple

from flax import nnx

ATTENTION = "attention"
CROSS_ATTENTION = "cross_attention"
RESBLOCKS = "resblocks"
CONDITION = "condition"
#: What a module may be: a block of attention, feed-forward layers in it and all; the
#: attention to a condition inside of one; a residual block; what embeds the condition.
ROLES = (ATTENTION, CROSS_ATTENTION, RESBLOCKS, CONDITION)


class Part(NamedTuple):
    """A module with a role.

    Attributes:
        role: one of ``ROLES``.
        path: of its parameters, such as "middle/attention".
    """

    role: str
    path: str


@dataclasses.dataclass(frozen=True)
class Parts:
    """What is known of a network's parameters, by their paths.

    Attributes:
        roles: modules with a role, in the order in which they were made.
        adapted: layers that get low-rank adapters.
        inert: parameters, or all below, by which the loss has no gradient.
    """

    roles: tuple[Part, ...] = ()
    adapted: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()

    def below(self, name: str) -> "Parts":
        """Returns the same of a network whose parameters lie under a name."""
        return Parts(
            tuple(part._replace(path=f"{name}/{part.path}") for part in self.roles),
            tuple(f"{name}/{path}" for path in self.adapted),
            tuple(f"{name}/{path}" for path in self.inert),
        )

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(
            self.roles + other.roles,
            self.adapted + other.adapted,
            self.inert + other.inert,
        )

    def of_role(self, role: str) -> list[str]:
        """Returns the paths of the modules of a role, in order."""
        return [part.path for part in self.roles if part.role == role]


def is_in(path: str, module: str) -> bool:
    """Whether a path is that of a module, or of something in it."""
    return path == module or path.startswith(f"{module}/")


def of_module(module: nnx.Module, tokens: int | None = None) -> Parts:
    """Asks a network's modules what they are.

    Args:
        module: the network, as it was made: merged from graph and state it would have
            forgotten the order.
        tokens: that the condition is attended to as; None where none is.

    Returns:
        The parts. A module inside one of its own role is none of its own.

    Raises:
        ValueError: a module has an unknown role.
    """
    roles: list[Part] = []
    adapted: list[str] = []
    inert: list[str] = []

    def visit(node: Any, path: str, inside: frozenset[str]) -> None:
        prefix = f"{path}/" if path else ""
        role = getattr(node, "role", None)
        if role is not None and role not in inside:
            if role not in ROLES:
                raise ValueError(f"{type(node).__name__} has the unknown role {role}.")
            roles.append(Part(role, path))
            inside |= {role}
        adapted.extend(prefix + name for name in getattr(node, "adapted", ()))
        if tokens is not None and hasattr(node, "inert"):
            inert.extend(prefix + name for name in node.inert(tokens))
        for name, value in vars(node).items():
            if isinstance(value, nnx.Module):
                visit(value, prefix + name, inside)

    visit(module, "", frozenset())
    return Parts(tuple(roles), tuple(adapted), tuple(inert))
