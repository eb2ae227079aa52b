"""The classifiers among which one is chosen."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpdm_jax import validate
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import registry
from dpdm_jax.evaluation.recipes import Recipe

#: The axis of names; the others are the fields of ``Recipe``.
CLASSIFIER = "classifier"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A classifier and how it is trained.

    Attributes:
        classifier: a name in ``registry.CLASSIFIERS``.
        recipe: how it is trained.
    """

    classifier: str
    recipe: Recipe


def entries(
    axes: Mapping[str, Sequence[Any]], recipe: Callable[[str], Recipe], where: str
) -> list[Entry]:
    """Lists every combination of the values of several axes.

    Args:
        axes: values by field: under "classifier" one or more names; under a field of
            ``Recipe`` none, which keeps what ``recipe`` says, or one or more.
        recipe: of a classifier's name.
        where: what messages call the axes.

    Returns:
        The combinations, the last field varied fastest.

    Raises:
        InputError: there is no classifier, one is unknown, a value is out of range, or
            there twice.
    """
    names = axes[CLASSIFIER]
    if not names:
        raise InputError(
            f"{where}.{CLASSIFIER} is (); allowed: one or more of "
            f"{', '.join(registry.CLASSIFIERS)}."
        )
    for name in names:
        validate.one_of(f"{where}.{CLASSIFIER}", name, registry.CLASSIFIERS)
    for axis, values in axes.items():
        if any(values.count(value) > 1 for value in values):
            raise InputError(
                f"{where}.{axis} is {tuple(values)}; allowed: different values."
            )
    varied = varied_fields(axes)
    return [
        Entry(
            name,
            dataclasses.replace(recipe(name), **dict(zip(varied, values, strict=True))),
        )
        for name in names
        for values in itertools.product(*(axes[axis] for axis in varied))
    ]


def varied_fields(axes: Mapping[str, Sequence[Any]]) -> list[str]:
    """Returns the fields of ``Recipe`` that axes have values for, in its order."""
    return [f.name for f in dataclasses.fields(Recipe) if axes[f.name]]
