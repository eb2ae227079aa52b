"""Examples in docstrings say what happens."""

import doctest
import importlib
import pathlib

import pytest

import dpdm_jax
from dpdm_jax import privacy

PACKAGE = pathlib.Path(dpdm_jax.__file__).parent


def _examples(path: pathlib.Path) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(line.lstrip().startswith(">>> ") for line in lines)


def _modules() -> dict[str, int]:
    """Modules with examples, and how many lines of them each has."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = _examples(path)
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize(("name", "count"), _modules().items())
def test_examples(name, count):
    result = doctest.testmod(importlib.import_module(name))
    # One that doctest does not find, in a nested function say, would never run.
    assert (result.failed, result.attempted) == (0, count)


def test_the_names_that_users_begin_with_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    for name in ("PoissonSampling", "clipped_grad", "format_epsilon", "make_plan"):
        (test,) = finder.find(getattr(privacy, name), name)
        assert test.examples, name
