import dataclasses
from typing import Literal

import ml_collections
import pytest

from dpdm_jax import settings, validate
from dpdm_jax.errors import InputError
from dpdm_jax.settings import Group, Kind, Room


@dataclasses.dataclass(frozen=True)
class Flat:
    count: int = 3
    rate: float = 0.5
    is_on: bool = False
    name: str = "a"
    way: Literal["up", "down"] = "up"
    widths: tuple[int, ...] = (1, 2)
    ends: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        validate.integer("room.flat.count", self.count, minimum=0)


@dataclasses.dataclass(frozen=True)
class Tall:
    rate: float = 0.5
    height: int = 1


FLAT, TALL = Group("room.flat", Flat), Group("room", Tall)
ROOM = Room(
    "room.name",
    {
        "flat": Kind(lambda flat, *given: (flat, given), (FLAT,)),
        "tall": Kind(lambda tall, *given: (tall, given), (TALL,)),
        "bare": Kind(lambda *given: given),
    },
)
# Reads a field that another room's kinds read, too.
OTHER = Room("other.name", {"tall": Kind(Tall, (TALL,)), "bare": Kind(Tall)})


def config_of(name="flat", other="bare", **changes) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    for field, default in settings.defaults((ROOM, OTHER)).items():
        settings.assign(config, field, default)
    settings.assign(config, "room.name", name)
    settings.assign(config, "other.name", other)
    with config.ignore_type():
        for field, value in changes.items():
            settings.assign(config, field.replace("__", "."), value)
    return config.lock()


def test_a_group_is_read_with_the_types_of_its_annotations():
    assert FLAT.read(config_of().room) == Flat()
    changed = config_of(room__flat__rate=2, room__flat__widths=[4], room__flat__count=1)
    flat = FLAT.read(changed.room)
    assert flat == Flat(count=1, rate=2.0, widths=(4,))
    assert isinstance(flat.rate, float)
    assert isinstance(flat.widths, tuple)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", True, "room.flat.count is True; allowed: an integer"),
        ("count", 1.0, "room.flat.count is 1.0; allowed: an integer"),
        ("count", -1, "room.flat.count is -1; allowed: an integer >= 0"),
        ("rate", "x", "room.flat.rate is 'x'; allowed: a number"),
        ("rate", False, "room.flat.rate is False; allowed: a number"),
        ("is_on", 1, "room.flat.is_on is 1; allowed: True, False"),
        ("name", 3, "room.flat.name is 3; allowed: a text"),
        ("name", None, "room.flat.name is None; allowed: a text"),
        ("way", "left", "room.flat.way is 'left'; allowed: up, down"),
        ("widths", 3, "room.flat.widths is 3; allowed: several values"),
        ("widths", (1, 2.0), r"room.flat.widths\[1\] is 2.0; allowed: an integer"),
        ("ends", (1.0,), r"room.flat.ends is \(1.0,\); allowed: 2 values"),
    ],
)
def test_another_type_is_refused_by_the_whole_name(field, value, message):
    with pytest.raises(InputError, match=message):
        FLAT.read({"flat": dataclasses.asdict(Flat()) | {field: value}})


def test_a_room_builds_what_is_chosen_of_settings_and_what_is_given():
    assert ROOM.build(config_of().room, 7) == (Flat(), (7,))
    assert ROOM.build(config_of("tall", room__height=4).room) == (Tall(height=4), ())
    assert ROOM.build(config_of("bare").room, 1, 2) == (1, 2)
    with pytest.raises(InputError, match=r"name is 'x'; allowed: flat, tall, bare\."):
        ROOM.build(config_of("x").room)


def refuse(config):
    rooms = (ROOM, OTHER)
    settings.refuse_foreign(rooms, config, settings.names_read(rooms, config))


def test_what_no_chosen_kind_reads_must_keep_its_default():
    refuse(config_of("flat", room__flat__count=4))
    refuse(config_of("bare"))
    with pytest.raises(
        InputError,
        match=r"^room.flat.count is 4, and room.name is 'bare', which does not read "
        r"it; allowed: 3, its default, or room.name='flat'\.$",
    ):
        refuse(config_of("bare", room__flat__count=4))


def test_a_field_may_have_readers_in_several_rooms():
    refuse(config_of("flat", "tall", room__height=4))
    with pytest.raises(
        InputError,
        match=r"height is 4, and room.name is 'flat' and other.name is 'bare', which "
        r"do not read it; allowed: 1, its default, or room.name='tall' or "
        r"other.name='tall'\.$",
    ):
        refuse(config_of("flat", room__height=4))


def test_settings_go_with_the_kind_that_gives_way():
    rooms = (ROOM, OTHER)
    config = config_of("bare", room__flat__count=4, room__flat__name="b")
    settings.forget_foreign(rooms, config, ["other.name"])
    assert (config.room.flat.count, config.room.flat.name) == (4, "b")
    settings.forget_foreign(rooms, config, ["room.name", "room.flat.name"])
    assert (config.room.flat.count, config.room.flat.name) == (3, "b")


def test_names():
    config = ml_collections.ConfigDict({"a": 1, "b": {"c": {"d": 2}, "e": ()}})
    assert sorted(settings.names(config)) == ["a", "b.c.d", "b.e"]
    assert settings.names({"d": 2}, "b.c") == ["b.c.d"]
