"""Notebooks: their cells run in turn, on embedded data and tiny settings."""

import ast
import json
import pathlib
import re

import matplotlib
import matplotlib.pyplot as plt
import pytest
from absl import logging as absl_logging
from commands import CHECKOUT

NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("*.ipynb"))


def _cells(path: pathlib.Path, kind: str) -> list[str]:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    cells = document["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Where all notebooks run, one after another: later ones find the first's run."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(path, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DPDM_JAX_QUICK", "1")
    monkeypatch.setattr(plt, "show", plt.close)
    matplotlib.use("agg")
    said = absl_logging.get_verbosity()
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(_cells(path, "code")):
        code = compile(cell, f"{path.name}, code cell {number}", "exec")
        exec(code, namespace)
    absl_logging.set_verbosity(said)
    assert capsys.readouterr().out


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_form(path):
    """No outputs; a JAX that is there stays; what it runs on, and how long, is said."""
    document = json.loads(path.read_text(encoding="utf-8"))
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    install, device, *rest = _cells(path, "code")
    assert '"-c", "kept.txt"' in install
    assert 'jax.config.update("jax_platforms", "cpu")' in device
    assert rest
    for cell in _cells(path, "code"):
        ast.parse(cell)
    first = " ".join(_cells(path, "markdown")[0].split())
    assert re.search(r"two CPU cores.*\b\d+ s of processor time", first)
    named = [word.rstrip(".,") for word in first.split() if word.startswith("docs/")]
    assert named
    assert all((CHECKOUT / name).is_file() for name in named)


def test_there_are_five():
    assert len(NOTEBOOKS) == 5
