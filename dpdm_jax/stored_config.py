"""Configs in files: how they are written, and the one way in which they are read.

Run directories, checkpoints and releases hold them as JSON, those of earlier versions
in an earlier format.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import ml_collections

from dpdm_jax import config_upgrades, json_values, rooms, settings, validate
from dpdm_jax.configs import base
from dpdm_jax.errors import InputError, reason

_PRESETS = "sampler_presets"


def to_values(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON values that state their format.

    Raises:
        InputError: a text in it is what stands for a number in files.
    """
    _check_texts(config.to_dict(), "")
    return {"format": config_upgrades.FORMAT} | json_values.encode(config.to_dict())


def _check_texts(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            _check_texts(each, f"{path}.{name}" if path else name)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check_texts(each, path)
    elif isinstance(value, str) and json_values.decode(value) != value:
        raise InputError(
            f"{path} has the text {value!r}, by which files of settings write a "
            "number; allowed: another text."
        )


def upgraded(values: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Returns the JSON values of a stored config in today's format.

    Raises:
        InputError: the format is unknown.
    """
    stated = values.get("format", 1)
    validate.one_of(f"{where}: format", stated, config_upgrades.FORMATS)
    return config_upgrades.upgraded(values) if stated == 1 else dict(values)


def read(values: Mapping[str, Any], where: object) -> ml_collections.ConfigDict:
    """Reads the JSON values of a stored config, of any version.

    Args:
        values: what ``to_values`` gave, all of it or a part.
        where: they come from, for messages.

    Returns:
        A whole config. What is not there has today's default; so has, in values of an
        earlier format, what no chosen kind reads.

    Raises:
        InputError: the format, a field or a kind is unknown, or a value is of another
            type.
    """
    config = base.get_config()
    fields = upgraded(values, where)
    del fields["format"]
    for name in unknown_fields(fields):
        raise InputError(
            f"{where} has the unknown field {name[:80]!r}; allowed: the settings of "
            "this version of dpdm_jax."
        )
    if _PRESETS in fields:
        config[_PRESETS] = ml_collections.ConfigDict()
    try:
        config.update(json_values.decode(fields))
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(
            f"{where} holds no config ({reason(e)}); allowed: values of the fields' "
            "types."
        ) from None
    if values.get("format") != config_upgrades.FORMAT:
        rooms.forget_foreign(config)
    return config


def unknown_fields(config: Mapping[str, Any]) -> list[str]:
    """Returns the whole names of fields that no config of this version has.

    Args:
        config: a whole config, or JSON values of one.
    """
    known = base.get_config().to_dict()
    presets = config.get(_PRESETS)
    if _is_group(presets):
        # A preset has fields and groups of the sampler.
        known[_PRESETS] = dict.fromkeys(presets, known["sampler"])
    return _unknown(config, known, "")


def known_fields() -> list[str]:
    """Returns the whole names of the fields that every config of this version has."""
    return [
        name
        for name in settings.names(base.get_config())
        if not name.startswith(f"{_PRESETS}.")
    ]


def known_names() -> list[str]:
    """Returns the whole names of these fields, and of the groups that they lie in."""
    found = dict.fromkeys(known_fields())
    for name in list(found):
        parts = name.split(".")
        found |= dict.fromkeys(".".join(parts[:i]) for i in range(1, len(parts)))
    return list(found)


def missing_fields(config: Mapping[str, Any]) -> list[str]:
    """Returns the whole names of fields that a whole config lacks."""
    there = set(settings.names(config))
    return [name for name in known_fields() if name not in there]


def _unknown(values: Mapping[str, Any], known: dict[str, Any], path: str) -> list[str]:
    found: list[str] = []
    for field, value in values.items():
        name = f"{path}.{field}" if path else field
        if field not in known or _is_group(value) != _is_group(known[field]):
            found.append(name)
        elif _is_group(value):
            found += _unknown(value, known[field], name)
    return found


def _is_group(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, (dict, ml_collections.ConfigDict))
