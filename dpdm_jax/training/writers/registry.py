"""The writers by name, and who is told what: private values stay where they may be.

All that is read off private data without noise is called ``private/...``. It goes to a
writer only if the user says that its place is private (``log.private_writers``).
"""

import functools
import importlib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from dpdm_jax import json_values, validate
from dpdm_jax.errors import InputError, reason
from dpdm_jax.training.writers import mlflow, wandb
from dpdm_jax.training.writers.base import About, Open, Writer

#: Names under this prefix come from private data without noise: never publish them.
PRIVATE = "private/"

_log = logging.getLogger(__name__)
_OWN = re.compile(r"[\w.]+:\w+")
_PROJECT = (
    re.compile(r"\w([\w .-]{0,98}\w)?"),
    "up to 100 letters, digits, blanks, . - and _",
)


class Known(NamedTuple):
    """A writer of this package.

    Attributes:
        open: opens its place.
        require: raises InputError if its package is not installed.
    """

    open: Open
    require: Callable[[], None]


WRITERS = {
    "wandb": Known(wandb.Writer, wandb.require),
    "mlflow": Known(mlflow.Writer, mlflow.require),
}


def check(settings: ml_collections.ConfigDict) -> dict[str, Open]:
    """Returns how the chosen writers are opened, by name; opens none.

    Args:
        settings: ``config.log``.

    Raises:
        InputError: one is unknown or not installed, or a private one is not chosen.
    """
    validate.text("log.project", settings.project, *_PROJECT)
    chosen = _names(settings.writers)
    for name in _names(settings.private_writers):
        if name not in chosen:
            raise InputError(
                f"log.private_writers has {name!r}, and log.writers is "
                f"{settings.writers!r}; allowed: names that are in both."
            )
    return {name: _find(name) for name in chosen}


class Followers:
    """The writers of a run. One that fails is left out from then on, and said so."""

    def __init__(self, settings: ml_collections.ConfigDict, about: About):
        """Opens them.

        Args:
            settings: ``config.log``.
            about: the run.

        Raises:
            InputError: see ``check``; or one cannot be opened.
        """
        self._private = set(_names(settings.private_writers))
        self._writers: dict[str, Writer] = {}
        for name, opened in check(settings).items():
            try:
                self._writers[name] = opened(about)
            except InputError:
                self.close()
                raise
            except Exception as e:  # those of other people's libraries
                self.close()
                raise InputError(
                    f"log.writers has {name!r}, which cannot be opened ({reason(e)}); "
                    "allowed: a place that can be reached and written, or none."
                ) from None

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of a step, to each writer those that it may have."""
        public = {n: v for n, v in scalars.items() if not n.startswith(PRIVATE)}
        for name, writer in list(self._writers.items()):
            told = dict(scalars) if name in self._private else dict(public)
            self._try(name, functools.partial(writer.write, step, told))

    def close(self) -> None:
        """Writes out what is buffered."""
        for name, writer in list(self._writers.items()):
            self._try(name, writer.close)
        self._writers.clear()

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as e:  # those of other people's libraries
            del self._writers[name]
            _log.warning(
                "%s of log.writers fails (%s) and is left out from here on; the run's "
                "own log has all.",
                name,
                reason(e),
            )


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns JSON values side by side, as tables of runs show them.

    >>> flat({"a": 1, "b": {"c": [2, 3]}})
    {'a': 1, 'b.c': '[2, 3]'}
    """
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, (bool, int, float, str))
            found[f"{prefix}{name}"] = value if is_plain else json_values.dumps(value)
    return found


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))


def _find(name: str) -> Open:
    if name in WRITERS:
        WRITERS[name].require()
        return WRITERS[name].open
    if not _OWN.fullmatch(name):
        raise InputError(
            f"log.writers has {name!r}; allowed: {', '.join(WRITERS)}, or MODULE:NAME "
            "of a class of your own."
        )
    module, _, inside = name.partition(":")
    try:
        found: Open = getattr(importlib.import_module(module), inside)
    except (ImportError, AttributeError) as e:
        raise InputError(
            f"log.writers has {name!r}, which cannot be imported ({reason(e)}); "
            "allowed: MODULE:NAME of a class that Python finds (PYTHONPATH)."
        ) from None
    return found
