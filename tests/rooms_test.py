"""Every kind of every room, as the registries have them."""

import dataclasses
import math

import pytest

from dpdm_jax import rooms, settings
from dpdm_jax.configs import base
from dpdm_jax.errors import InputError

GROUPS = {
    (group.path, group.type): group
    for room in rooms.ROOMS
    for group in (*room.shared, *(g for k in room.kinds.values() for g in k.groups))
}
# Settings of kinds, but for the number that is a choice itself.
OF_KINDS = sorted(
    {
        name
        for room in rooms.ROOMS
        for kind in room.kinds.values()
        for group in kind.groups
        for name in group.defaults
        if name != room.choice
    }
)


def other_than(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    if value == math.inf:
        return 1.0
    return (*value, 1) if isinstance(value, tuple) else value + 1


def config_with(name: str, *, is_read: bool):
    """A config in which a field is not as by default; None if all kinds read it."""
    config = base.get_config().lock()
    for room in rooms.ROOMS:
        readers = room.readers(name)
        wanted = [kind for kind in room.kinds if (kind in readers) == is_read]
        if readers and not wanted:
            return None
        if readers:
            settings.assign(config, room.choice, wanted[0])
    settings.assign(config, name, other_than(settings.lookup(config, name)))
    return config


@pytest.mark.parametrize("name", OF_KINDS)
def test_a_field_is_refused_by_name_where_its_kind_is_not_chosen(name):
    rooms.check(config_with(name, is_read=True))
    config = config_with(name, is_read=False)
    assert config is not None, "a field of all kinds is shared"
    with pytest.raises(InputError) as error:
        rooms.check(config)
    value = settings.lookup(config, name)
    assert str(error.value).startswith(f"{name} is {value!r}, and ")
    default = settings.lookup(base.get_config(), name)
    assert f"; allowed: {default!r}, its default, or " in str(error.value)
    rooms.forget_foreign(config)
    rooms.check(config)
    assert settings.lookup(config, name) == default


@pytest.mark.parametrize("group", GROUPS.values(), ids=lambda g: f"{g.path} {g.type}")
def test_a_group_is_frozen_documented_and_in_the_base_config(group):
    assert group.read(base.get_config()[group.path.split(".")[0]]) == group.type()
    assert group.type.__dataclass_params__.frozen
    documents = "".join(cls.__doc__ or "" for cls in group.type.__mro__)
    for field in dataclasses.fields(group.type):
        assert f"    {field.name}: " in documents, field.name


def test_groups_agree_on_what_they_share():
    found = {}
    for group in GROUPS.values():
        for name, default in group.defaults.items():
            assert found.setdefault(name, default) == default


def test_settings_of_a_preset_are_read_where_it_chooses_their_kind():
    config = base.get_config()
    config.sampler.heun.s_noise = 1.01
    with pytest.raises(InputError, match=r"heun\.s_noise is 1\.01, and sampler\.name"):
        rooms.check(config)
    config.sampler_presets.churn = {"name": "heun", "heun": {"s_churn": 3.0}}
    config.sampler.preset = "churn"
    rooms.check(config)
    # Those of the sampler that the preset replaces may stay.
    config.sampler.ddim.stochastic = True
    rooms.check(config)


def test_a_sampler_that_does_not_fit_the_network_is_refused():
    config = base.get_config()
    config.sampler.name = "ancestral"
    config.sampler.ancestral.variance = "learned"
    with pytest.raises(InputError, match="variance is 'learned', and the network le"):
        rooms.check(config)
    # The preset's sampler takes its place.
    config.sampler.preset = "ddim"
    rooms.check(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampler.name": "ddim_eta"},
            "sampler.clip_denoised is True; allowed for latents of a codec: False",
        ),
        (
            {"diffusion.parameterization": "edm_moments"},
            "parameterization is 'edm_moments', whose moments are those of images",
        ),
    ],
)
def test_what_makes_sense_of_pixels_alone_is_refused_for_latents(changes, message):
    config = base.get_config()
    for name, value in changes.items():
        settings.assign(config, name, value)
    rooms.check(config)
    config.codec.name = "kl"
    with pytest.raises(InputError, match=message):
        rooms.check(config)
    if "sampler.name" in changes:
        # The preset's sampler takes its place.
        config.sampler.preset = "ddim"
        rooms.check(config)


BY_NAME = [room for room in rooms.ROOMS if not isinstance(room, settings.Switch)]


@pytest.mark.parametrize("room", BY_NAME, ids=lambda room: room.choice)
def test_an_unknown_kind_lists_the_known_ones(room):
    config = base.get_config()
    settings.assign(config, room.choice, "x")
    with pytest.raises(InputError, match=f"^{room.choice} is 'x'; allowed: ") as error:
        rooms.check(config)
    assert all(kind in str(error.value) for kind in room.kinds)
