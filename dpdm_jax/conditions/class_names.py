"""Names of classes, in order of their labels: public, and stated by the config."""

import re
from collections.abc import Sequence
from typing import Any

from dpdm_jax import validate
from dpdm_jax.errors import InputError, listed

# Folders are called so, and lines of a report.
_NAME = re.compile(r"(?!\.{1,2}$)[^\x00-\x1f\x7f-\x9f\u2028\u2029/\\]{1,100}")


def check(names: Sequence[str], num_classes: int) -> None:
    """Refuses names that are none, or not one for each class.

    Args:
        names: ``data.class_names``.
        num_classes: of the data; below 1 it is not known.

    Raises:
        InputError: they are so.
    """
    for name in names:
        validate.text(
            "a name in data.class_names",
            name,
            _NAME,
            "up to 100 characters in one line, without / and \\, and not . or ..",
        )
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"data.class_names has {twice!r} again; allowed: another name for each "
            "class."
        )
    if num_classes > 0 and len(names) != num_classes:
        raise InputError(
            f"data.class_names has {len(names)} names ({listed(names)}) for "
            f"{num_classes} classes (data.num_classes); allowed: one for each, in "
            "order of the labels."
        )


def label_of(names: Sequence[str], wanted: Any) -> Any:
    """Returns the label of a class that is asked for by its name, else what is wanted.

        >>> label_of(("cat", "dog"), "dog"), label_of(("cat", "dog"), "uniform")
        (1, 'uniform')

    Args:
        names: ``data.class_names``.
        wanted: see ``Condition.choose``.
    """
    is_name = isinstance(wanted, str) and wanted in names
    return list(names).index(wanted) if is_name else wanted
