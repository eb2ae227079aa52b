"""Settings of the kinds that a config chooses by name.

A room has a field, such as ``network.name``, that chooses one of its kinds. What a kind
reads lies in groups of fields, each documented by a frozen dataclass beside the kind's
builder. Here groups are read, once, and what no chosen kind reads is told apart.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import ml_collections

from dpdm_jax import validate
from dpdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Group:
    """Fields of a config that are read together.

    Attributes:
        path: where they lie, such as "network.mlp". Groups may lie at one place, and
            share fields.
        type: a frozen dataclass of the fields, each with a default. It checks ranges
            when it is made.
    """

    path: str
    type: type[Any]

    # Once: a config asks for those of all groups, and again when it is checked.
    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The fields' defaults, by the whole name."""
        return {
            f"{self.path}.{f.name}": f.default for f in dataclasses.fields(self.type)
        }

    def read(self, section: ml_collections.ConfigDict) -> Any:
        """Reads the group.

        Args:
            section: the part of a config that the path begins with: of "network.mlp"
                ``config.network``.

        Returns:
            An instance of ``type``.

        Raises:
            InputError: a field is of another type, or out of range.
        """
        _, _, inside = self.path.partition(".")
        group = lookup(section, inside) if inside else section
        annotations = typing.get_type_hints(self.type)
        return self.type(
            **{
                f.name: _typed(
                    f"{self.path}.{f.name}", group[f.name], annotations[f.name]
                )
                for f in dataclasses.fields(self.type)
            }
        )


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a name in a config stands for.

    Attributes:
        build: makes it, of the settings in ``groups``, in order, and what else its room
            gives.
        groups: what it reads.
    """

    build: Callable[..., Any]
    groups: tuple[Group, ...] = ()


@dataclasses.dataclass(frozen=True)
class Room:
    """The kinds among which one field of a config chooses.

    Attributes:
        choice: the field that chooses one, such as "network.name".
        kinds: by name.
        shared: what is read whichever is chosen.
    """

    choice: str
    kinds: Mapping[Any, Kind]
    shared: tuple[Group, ...] = ()

    def kind(self, section: ml_collections.ConfigDict) -> Kind:
        """Returns the kind that is chosen.

        Args:
            section: the part of a config that ``choice`` begins with.

        Raises:
            InputError: there is none of that name.
        """
        name = self.name(lookup(section, self.choice.partition(".")[2]))
        validate.one_of(self.choice, name, self.kinds)
        return self.kinds[name]

    def name(self, value: Any) -> Any:
        """Returns the name of the kind that a value of the choice stands for."""
        return value

    def asked(self, kind: Any) -> str:
        """Returns in words how a kind is chosen, for messages."""
        return f"{self.choice}={kind!r}"

    def build(
        self, section: ml_collections.ConfigDict, *given: Any, **options: Any
    ) -> Any:
        """Builds what is chosen.

        Args:
            section: as of ``kind``; its groups are read from there.
            *given: what the builder takes behind the settings.
            **options: likewise, by name.

        Raises:
            InputError: the name is unknown, or a setting is not allowed.
        """
        kind = self.kind(section)
        settings = (group.read(section) for group in kind.groups)
        return kind.build(*settings, *given, **options)

    def readers(self, name: str) -> list[Any]:
        """Returns the kinds that read a field, given by its whole name."""
        return [
            kind
            for kind, found in self.kinds.items()
            if any(name in group.defaults for group in found.groups)
        ]


class Switch(Room):
    """A room that is chosen by a number: kind 0 for 0, kind 1 for any other."""

    def name(self, value: Any) -> int:
        return int(bool(value))

    def asked(self, kind: Any) -> str:
        return f"{self.choice} above 0" if kind else f"{self.choice}=0"


def defaults(rooms: Sequence[Room]) -> dict[str, Any]:
    """Returns the defaults of all that rooms read, by the whole name."""
    found: dict[str, Any] = {}
    for room in rooms:
        for group in room.shared:
            found |= group.defaults
        for kind in room.kinds.values():
            for group in kind.groups:
                found |= group.defaults
    return found


def names_read(rooms: Sequence[Room], config: ml_collections.ConfigDict) -> set[str]:
    """Returns the whole names of the fields that the chosen kinds read.

    Args:
        rooms: whose kinds.
        config: the whole config.

    Raises:
        InputError: a kind is unknown.
    """
    names: set[str] = set()
    for room in rooms:
        kind = room.kind(config[room.choice.partition(".")[0]])
        names.add(room.choice)
        for group in (*room.shared, *kind.groups):
            names |= group.defaults.keys()
    return names


def foreign(
    rooms: Sequence[Room], config: ml_collections.ConfigDict, read: Collection[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Yields name, value and default of fields that are set and not read.

    Args:
        rooms: all that may read a field.
        config: the whole config.
        read: see ``names_read``.
    """
    for name, default in defaults(rooms).items():
        value = lookup(config, name)
        value = tuple(value) if isinstance(value, list) else value
        if name not in read and value != default:
            yield name, value, default


def refuse_foreign(
    rooms: Sequence[Room], config: ml_collections.ConfigDict, read: Collection[str]
) -> None:
    """Refuses a field that is set and not read; arguments as of ``foreign``.

    Raises:
        InputError: there is one.
    """
    for name, value, default in foreign(rooms, config, read):
        readers = [(room, kind) for room in rooms for kind in room.readers(name)]
        choices = dict.fromkeys(room.choice for room, _ in readers)
        chosen = [f"{choice} is {lookup(config, choice)!r}" for choice in choices]
        others = [room.asked(kind) for room, kind in readers]
        verb = "does" if len(chosen) == 1 else "do"
        raise InputError(
            f"{name} is {value!r}, and {' and '.join(chosen)}, which {verb} not read "
            f"it; allowed: {default!r}, its default, or {' or '.join(others)}."
        )


def forget_foreign(
    rooms: Sequence[Room], config: ml_collections.ConfigDict, given: Collection[str]
) -> None:
    """Lets go of settings for kinds that gave way to others.

    Args:
        rooms: all that may read a field.
        config: the whole config, which is changed: what only kinds of a room read whose
            choice is among the given fields, and which are not chosen, gets its
            default.
        given: whole names of fields that somebody set later than the others; these
            stay.

    Raises:
        InputError: a kind is unknown.
    """
    anew = [room for room in rooms if room.choice in given]
    if not anew:
        return
    for name, _, default in list(foreign(rooms, config, names_read(rooms, config))):
        if name not in given and any(room.readers(name) for room in anew):
            assign(config, name, default)


def lookup(config: Mapping[str, Any], name: str) -> Any:
    """Returns a field by its whole name, such as "network.mlp.hidden_width"."""
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def assign(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Sets a field by its whole name; makes groups that are missing."""
    *path, field = name.split(".")
    for part in path:
        if part not in config:
            config[part] = ml_collections.ConfigDict()
        config = config[part]
    config[field] = value


def names(group: Mapping[str, Any], path: str = "") -> list[str]:
    """Returns the whole names of all fields in a group of a config and in its groups.

    Args:
        group: a ConfigDict, or a dictionary.
        path: where it lies; "" for a whole config.
    """
    found: list[str] = []
    for field, value in group.items():
        name = f"{path}.{field}" if path else field
        is_group = isinstance(value, (ml_collections.ConfigDict, dict))
        found += names(value, name) if is_group else [name]
    return found


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """Returns a value as its annotation has it; whole numbers do for others.

    Raises:
        InputError: it is of another type.
    """
    value = validate.plain(value)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        validate.one_of(name, value, arguments)
        return value
    if origin is tuple:
        return _tuple(name, value, arguments)
    is_of_type = isinstance(value, (int, float) if annotation is float else annotation)
    if not is_of_type or isinstance(value, bool) != (annotation is bool):
        raise InputError(f"{name} is {value!r}; allowed: {_IN_WORDS[annotation]}.")
    return float(value) if annotation is float else value


def _tuple(name: str, value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise InputError(f"{name} is {value!r}; allowed: several values in brackets.")
    if arguments[-1] is ...:
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise InputError(f"{name} is {value!r}; allowed: {len(arguments)} values.")
    return tuple(
        _typed(f"{name}[{i}]", part, argument)
        for i, (part, argument) in enumerate(zip(value, arguments, strict=True))
    )


_IN_WORDS = types.MappingProxyType(
    {bool: "True, False", int: "an integer", float: "a number", str: "a text"}
)
