"""Checks arrays against annotations: of each call, shapes, dtypes and their relations.

Nothing else is checked. What a user got wrong the code itself refuses, as tests show,
and mypy sees the rest. NumPy's arrays may stand for JAX's, as they may for JAX itself.

A tenth of the time of tests that build many functions would go into it, so it is on for
the tests of what is annotated alone.
"""

import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any

import beartype
import jax
import jaxtyping
import numpy as np

#: Modules whose functions, methods and dataclasses are checked.
CHECKED = (
    "dpdm_jax.diffusion",
    "dpdm_jax.networks",
    "dpdm_jax.privacy",
    "dpdm_jax.release.model",
)
#: Folders and files of tests while which they are.
CHECKING = (
    "array_types_test.py",
    "conditions",
    "diffusion",
    "images",
    "models",
    "networks",
    "parity_test.py",
    "privacy",
    "sampling",
)


def install() -> None:
    """Has what is imported from now on checked, where ``select`` turns that on."""
    jaxtyping.install_import_hook(CHECKED, f"{__name__}.check")


def select(test: pathlib.Path) -> bool:
    """Turns the checks on or off for a test file, given by its path in ``tests``.

    Returns:
        Whether they are on.
    """
    is_checked = test.parts[0] in CHECKING
    jaxtyping.config.update("jaxtyping_disable", not is_checked)
    return is_checked


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks what is annotated with an array's shape, and leaves out the rest."""
    if jaxtyping.config.jaxtyping_disable:
        return function  # one of those that functions return, and will not be called on
    hints = function.__annotations__.items()
    function.__annotations__ = {
        name: _by_any_library(hint) for name, hint in hints if _has_array(hint)
    }
    return beartype.beartype(function)


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def _has_array(hint: Any) -> bool:
    return _is_array(hint) or any(map(_has_array, typing.get_args(hint)))


def _by_any_library(hint: Any) -> Any:
    if _is_array(hint) and hint.array_type is jax.Array:
        return hint.dtype[jax.Array | np.ndarray, hint.dim_str]
    parts = tuple(map(_by_any_library, typing.get_args(hint)))
    if not parts:
        return hint
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.Union[parts]  # noqa: UP007
    return typing.get_origin(hint)[parts]
