"""Data runs downward: no module imports from a later stage."""

import ast
import configparser
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest
from commands import CHECKOUT

import dpdm_jax

PACKAGE = pathlib.Path(dpdm_jax.__file__).parent
# What each folder may import of the package, besides itself and the common ground.
COMMON = {
    "errors",
    "validate",
    "files",
    "json_values",
    "devices",
    "processes",
    "images",
    "user_paths",
}
COMMON |= {
    "conditions",
    "fusion",
    "jax_settings",
    "padding",
    "settings",
    "streams",
    "tensors",
}
ALLOWED = {
    "data": set(),
    "diffusion": set(),
    "networks": set(),
    "privacy": set(),
    "training": {
        "data",
        "diffusion",
        "models",
        "planning",
        "privacy",
        "progress",
        "queries",
        "rngs",
        "rooms",
        "run_dir",
        "stored_config",
    },
    "sampling": {
        "data",
        "diffusion",
        "models",
        "progress",
        "rngs",
        "rooms",
        "run_dir",
        "training",
    },
    "evaluation": {
        "command_line",
        "data",
        "interop",
        "models",
        "privacy",
        "progress",
        "rngs",
        "run_dir",
        "sampling",
        "xla_flags",
    },
    "report": {
        "evaluation",
        "privacy",
        "release",
        "run_dir",
        "sampling",
        "training",
    },
    "interop": {
        "networks",
        "training",
        "models",
        "planning",
        "run_dir",
        "stored_config",
        "command_line",
    },
    "release": {
        "diffusion",
        "models",
        "planning",
        "privacy",
        "rngs",
        "run_dir",
        "sampling",
        "stored_config",
        "training",
    },
    "autoencoding": {
        "data",
        "interop",
        "models",
        "networks",
        "progress",
        "rngs",
        "rooms",
        "run_dir",
        "stored_config",
        "training",
    },
    "initial": {
        "autoencoding",
        "command_line",
        "interop",
        "models",
        "networks",
        "privacy",
        "release",
        "run_dir",
        "stored_config",
        "training",
    },
    "audit": {
        "data",
        "diffusion",
        "models",
        "planning",
        "privacy",
        "queries",
        "rngs",
        "run_dir",
        "training",
    },
    "devices": set(),
    "processes": set(),
    "models": {"diffusion", "networks"},
    "rooms": {"data", "diffusion", "networks"},
    "config_upgrades": set(),
    "stored_config": {"config_upgrades", "configs", "rooms", "run_dir"},
    "planning": {"data", "models", "privacy", "queries", "rooms"},
    "queries": {"data", "diffusion", "models", "privacy"},
    "compilation": {
        "diffusion",
        "models",
        "planning",
        "privacy",
        "sampling",
        "training",
        "xla_flags",
    },
}


def imported_parts(path: pathlib.Path) -> set[str]:
    """First components below dpdm_jax that a file imports."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "dpdm_jax":
                names = [f"dpdm_jax.{alias.name}" for alias in node.names]
            else:
                names = [module]
        else:
            continue
        parts |= {n.split(".")[1] for n in names if n.startswith("dpdm_jax.")}
    return parts


@pytest.mark.parametrize("stage", ALLOWED)
def test_no_import_of_a_later_stage(stage):
    folder = PACKAGE / stage
    files = list(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{stage}.py"]
    assert files
    for path in files:
        extra = imported_parts(path) - ALLOWED[stage] - {stage} - COMMON
        assert not extra, f"{path.relative_to(PACKAGE)} imports {extra}"


# What importing a module must not load. Each is imported after those above it.
LIGHT = {
    "dpdm_jax.privacy": {
        "tensorflow",
        "tensorflow_datasets",
        "sklearn",
        "clu",
        "orbax",
        "PIL",
        "flax",
        "dp_accounting",
        "beartype",
    },
    "dpdm_jax.data": {"tensorflow", "tensorflow_datasets", "sklearn"},
    "dpdm_jax.main": {"tensorflow", "clu", "torch", "sklearn"},
    "dpdm_jax.modes": {"tensorflow", "clu", "torch", "sklearn", "matplotlib"},
    "dpdm_jax.report": {"tensorflow", "clu", "torch", "sklearn"},
}


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What one process has loaded after each import."""
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({module!r}); print(*sorted(sys.modules))\n"
        for module in LIGHT
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    return {
        module: {name.split(".")[0] for name in line.split()}
        for module, line in zip(LIGHT, lines, strict=True)
    }


@pytest.mark.slow
@pytest.mark.parametrize("module", LIGHT)
def test_imports_stay_light(module, loaded):
    assert "dpdm_jax" in loaded[module]
    assert not loaded[module] & LIGHT[module]


# Imported where it is needed, by those who have the extra that brings it.
OF_EXTRAS = {
    "clu": "tensorboard",
    "cryptography": "sign",
    "huggingface-hub": "hub",
    "jax-privacy": "audit",
    "pyarrow": "parquet",
    "tensorflow-cpu": "tfds",
    "tensorflow-datasets": "tfds",
    "tokenizers": "text",
    "torch": "torch",
}


def _requirements(text: str) -> set[str]:
    return {re.split(r"[^\w-]", line.strip())[0] for line in text.strip().splitlines()}


def _imported_distributions() -> set[str]:
    """What the package imports, at its top or in functions, by its name for pip."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
    names -= {"dpdm_jax", "configs", *sys.stdlib_module_names}
    known = importlib.metadata.packages_distributions()
    return {known[name][0].replace("_", "-").lower() for name in names}


@pytest.mark.slow
def test_requirements_are_what_is_imported():
    """The base install brings all but what extras do, and nothing else."""
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    base = _requirements(config["options"]["install_requires"])
    assert _imported_distributions() == base | set(OF_EXTRAS)
    for name, extra in OF_EXTRAS.items():
        assert name not in base
        assert name in _requirements(config["options.extras_require"][extra])
