"""Conditions as JSON values, for checkpoints, releases and plans.

Class labels are a number of classes, as they were when there was nothing else.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dpdm_jax import validate
from dpdm_jax.conditions.base import Condition
from dpdm_jax.conditions.labels import of_classes
from dpdm_jax.conditions.tokens import Tokens

#: Dataclasses of conditions that are no classes, by their stored name.
KINDS: dict[str, type] = {"tokens": Tokens}


def to_dict(condition: Condition) -> dict[str, Any]:
    """Returns {"num_classes": ...}, and "condition" where it is no class."""
    if condition.num_classes is not None:
        return {"num_classes": condition.num_classes}
    (kind,) = (name for name, made in KINDS.items() if type(condition) is made)
    fields: Any = condition  # a dataclass, as all of ``KINDS`` are
    stated = {
        field.name: list(value) if isinstance(value, tuple) else value
        for field in dataclasses.fields(fields)
        # What is as by default was no field once.
        if (value := getattr(condition, field.name)) != field.default
    }
    return {"num_classes": 0, "condition": {"kind": kind, **stated}}


def from_dict(stored: Mapping[str, Any]) -> Condition:
    """Undoes ``to_dict``; other entries are passed over.

    Raises:
        InputError: the kind is unknown, or a value is out of range.
        KeyError, TypeError, ValueError: the values are not such.
    """
    if "condition" not in stored:
        return of_classes(int(stored["num_classes"]))
    fields = dict(stored["condition"])
    kind = fields.pop("kind")
    validate.one_of("condition.kind", kind, KINDS)
    return KINDS[kind](**fields)
