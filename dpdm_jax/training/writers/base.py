"""What a writer is, and what it is told of a run."""

import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from dpdm_jax.errors import InputError


class About(NamedTuple):
    """A run, in what is public of it.

    Attributes:
        name: ``config.name``.
        run_id: of its ledger; a resumed run has the same.
        project: ``log.project``.
        facts: the privacy plan as flat values; statements publish it, too.
        workdir: the run directory, for files that stay on this machine.
    """

    name: str
    run_id: str
    project: str
    facts: Mapping[str, Any]
    workdir: pathlib.Path


class Writer(Protocol):
    """A place that is open; it may raise anything, which costs the run nothing."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of a step; a resumed run may repeat steps."""
        ...

    def close(self) -> None:
        """Writes out what is buffered."""
        ...


#: Opens a place; it may raise anything.
Open = Callable[[About], Writer]


def library(name: str) -> Any:
    """Imports the package of a writer, which is an extra of the same name.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"log.writers has {name!r}, whose package is not installed; allowed: an "
            f"installation with the extra {name!r} (pip install 'dpdm_jax[{name}]')."
        ) from None
