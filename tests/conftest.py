import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Before JAX initialises, for this process and all that tests start: compiling is most
# of the time, small programs included.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Threads that spin while they wait take the other worker's core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(TESTS.parent))  # for experiments/, which is not installed
sys.path.insert(0, str(TESTS / "plugins"))
sys.path.insert(0, str(TESTS))  # for earlier_configs, float_sums

# Files of half a minute of processor time and more, the costliest first.
_COSTLY = (
    "experiments/benchmarks_test.py",
    "training/devices_test.py",
    "privacy/engines_test.py",
    "experiments/mnist_cpu_test.py",
    "privacy/clipping_test.py",
    "training/trainable_test.py",
    "training/loop_test.py",
    "docs_test.py",
    "entry_points_test.py",
    "training/faults_test.py",
    "configs_test.py",
    "evaluation/lenet_features_test.py",
    "parity_test.py",
    "export_test.py",
)

pytest_plugins = ["processor_time", "commands"]


def pytest_addoption(
    parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager
) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(TESTS / "golden"),
        help="folder of figures from the official code; see tests/golden/README.md",
    )
    # Here, before any other file is imported. A process that only hands tests out to
    # others does without what takes seconds to import.
    options = pluginmanager.get_plugin("pytestconfig").known_args_namespace
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if is_worker or not getattr(options, "numprocesses", None):
        pluginmanager.import_plugin("running")


def pytest_configure(config: pytest.Config) -> None:
    """Hands out files in the order of collection, not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts costly files first, so that no worker is left with one at the end."""
    places = {TESTS / name: place for place, name in enumerate(_COSTLY)}
    items.sort(key=lambda item: places.get(item.path, len(_COSTLY)))
