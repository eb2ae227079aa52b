"""What a wheel holds, and that it does its work without the repository."""

import email
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import yaml
from commands import CHECKOUT

import dpdm_jax
from dpdm_jax.configs import base

pytestmark = pytest.mark.slow

_BUILD_SDIST = "import sys; from setuptools import build_meta as b; b.build_sdist('..')"
# Where the program is, every shipped config, and a release's.
_LOAD = """
import pathlib, sys
from dpdm_jax import command_line
print(command_line.__file__)
for path in sorted(command_line.CONFIGS.glob("[!_]*.py")):
    if path.stem not in ("released", "stored"):
        command_line.load_config(f"configs/{path.name}")
    print(path)
print(command_line.load_config(f"configs/released.py:{sys.argv[1]}").name)
"""


def _run(command: list[str], **settings) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _build_wheel(source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Builds offline, with the setuptools that is installed."""
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", str(out)]
    _run([sys.executable, "-m", "pip", "wheel", *flags, str(source)])
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """A wheel, built from a copy: setuptools writes beside what it reads."""
    folder = tmp_path_factory.mktemp("wheel")
    others = shutil.ignore_patterns(".*", "*.egg-info", "build", "runs", "experiments")
    shutil.copytree(CHECKOUT, folder / "copy", ignore=others)
    return _build_wheel(folder / "copy", folder / "built")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> dict[str, str]:
    """An environment in which Python finds what the wheel holds first."""
    target = tmp_path_factory.mktemp("target")
    flags = ["--no-deps", "--no-index", "-q", "--target", str(target)]
    _run([sys.executable, "-m", "pip", "install", *flags, str(wheel)])
    return os.environ | {"PYTHONPATH": str(target)}


def _names(wheel: pathlib.Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_a_wheel_holds_the_package_and_its_configs(wheel):
    names = _names(wheel)
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/"
    assert {name for name in names if name.split("/")[0] != "dpdm_jax"} == {
        name for name in names if name.startswith(info)
    }
    for folder, prefix in (("dpdm_jax", ""), ("configs", "dpdm_jax/")):
        for path in (CHECKOUT / folder).rglob("*.py"):
            assert f"{prefix}{path.relative_to(CHECKOUT).as_posix()}" in names
    assert {"dpdm_jax/py.typed", "dpdm_jax/report/templates/report.html"} <= names


def test_metadata(wheel):
    """What an index shows; the version stands in the package alone."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(archive.read(name))
        (licence,) = (n for n in archive.namelist() if n.endswith("/LICENSE"))
        assert archive.read(licence) == (CHECKOUT / "LICENSE").read_bytes()
    assert said["Version"] == dpdm_jax.__version__
    assert said["License"] == "Apache-2.0"
    assert said.get_payload() == (CHECKOUT / "README.md").read_text()
    assert "Typing :: Typed" in said.get_all("Classifier")
    assert len(said.get_all("Project-URL")) == 3
    extras = set(said.get_all("Provides-Extra"))
    assert {"audit", "docs", "parquet", "sign", "text", "tfds", "torch"} <= extras


def test_changelog_and_citation_have_the_version():
    changes = (CHECKOUT / "CHANGELOG.md").read_text()
    titles = re.findall(r"^## (\S+)", changes, re.M)
    assert titles[:2] == ["Unreleased", dpdm_jax.__version__]
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert citation["version"] == dpdm_jax.__version__


def test_forms_of_issues_are_complete():
    folder = CHECKOUT / ".github" / "ISSUE_TEMPLATE"
    forms = sorted(folder.glob("[!c]*.yml"))
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form), path
    assert "SECURITY.md" in (folder / "bug.yml").read_text()


def test_a_source_archive_makes_the_same_wheel(wheel, tmp_path):
    _run([sys.executable, "-c", _BUILD_SDIST], cwd=wheel.parents[1] / "copy")
    (archive,) = wheel.parents[1].glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    for name in ("CHANGELOG.md", "CITATION.cff", "SECURITY.md", "mkdocs.yml"):
        assert (source / name).read_bytes() == (CHECKOUT / name).read_bytes()
    pages = {p.relative_to(CHECKOUT) for p in (CHECKOUT / "docs").rglob("*.md")}
    assert pages == {p.relative_to(source) for p in (source / "docs").rglob("*.md")}
    assert _names(_build_wheel(source, tmp_path / "built")) == _names(wheel)


def test_every_config_is_found_in_an_empty_folder(installed, tmp_path):
    release = CHECKOUT / "experiments" / "mnist_cpu" / "releases" / "mnist_eps10"
    command = [sys.executable, "-c", _LOAD, str(release)]
    *paths, name = _run(command, cwd=tmp_path, env=installed).splitlines()
    assert all(path.startswith(installed["PYTHONPATH"]) for path in paths)
    shipped = {path.name for path in (CHECKOUT / "configs").glob("[!_]*.py")}
    assert {pathlib.Path(path).name for path in paths[1:]} == shipped
    assert name == "mnist_cpu_eps10_released"


def test_a_plan_in_an_empty_folder(installed, tmp_path):
    """Also with a file of one's own, which imports shipped ones past ``configs``.

    Somebody else's package of that name is in the way of none of them.
    """
    (tmp_path / "configs").mkdir()
    for name in ("__init__", "base", "digits"):
        (tmp_path / "configs" / f"{name}.py").write_text("raise SystemExit('foreign')")
    (tmp_path / "configs" / "mine.py").write_text(
        "from dpdm_jax.configs import digits\n"
        "def get_config(variant=''):\n"
        "    config = digits.get_config()\n"
        "    config.train.batch_size = int(variant)\n"
        "    return config\n"
    )
    command = [sys.executable, "-m", "dpdm_jax.main", "--mode=plan", "--json"]
    command += ["--config.privacy.accountant=rdp"]  # the faster one
    env = installed | {"PYTHONPATH": f"{tmp_path}:{installed['PYTHONPATH']}"}
    for flags, expected in ([], 718), (["--config=configs/mine.py:480"], 479):
        plan = json.loads(_run([*command, *flags], cwd=tmp_path, env=env))
        assert plan["expected_batch_size"] == expected


def test_the_name_in_the_repository_is_that_of_its_folder():
    assert pathlib.Path(base.__file__) == CHECKOUT / "configs" / "base.py"
