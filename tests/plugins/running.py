"""A pytest plugin for processes that run tests: how they compile, common fixtures."""

import gc
import os
import sys
from pathlib import Path
from typing import Any

import array_types
import pytest

array_types.install()  # before what it checks is imported
# PyTorch's compiler, which tests do not use, ends the process when it is imported
# beside jaxlib 0.12: both bring an LLVM.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]

from dpdm_jax import rooms, settings, xla_flags  # noqa: E402
from dpdm_jax.configs import base, digits  # noqa: E402

xla_flags.configure()

import built_once  # noqa: E402
import cheap_compilation  # noqa: E402
import compiled_steps  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402
import remembered  # noqa: E402

from dpdm_jax.training import metrics, prepare, steps  # noqa: E402

cheap_compilation.install()
remembered.install()

TESTS = Path(__file__).parents[1]
_TENSORBOARD_IS_INSTALLED = metrics._is_installed


def pytest_collection_finish() -> None:
    """Spares garbage collection what was imported, which stays.

    Tracing makes so many objects that looking through all of them, time and again, took
    a twentieth of the suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles as users do for tests marked so, and as cheaply as can be for others."""
    cheaply = item.get_closest_marker("optimized") is None
    checked = array_types.select(item.path.relative_to(TESTS))
    _compiled.go_on(item.path, (cheaply, checked))
    if "monkeypatch" in item.fixturenames:
        _compiled.is_altered = True
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(cheaply))
    jax.config.update("jax_disable_most_optimizations", cheaply)


class _Compiled:
    """The programs that a process has, which its test files share.

    Attributes:
        is_altered: whether some may be of functions that a test has put in the place of
            others.
    """

    #: A process has room for some thousand programs, and then ends.
    _MOST = 1000

    def __init__(self) -> None:
        self.is_altered = False
        self._number = 0
        self._file: Path | None = None
        self._ways: set[tuple[bool, bool]] = set()
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def go_on(self, file: Path, way: tuple[bool, bool]) -> None:
        """Forgets all before a file that must not share them, or once they are many.

        Args:
            file: of the next test.
            way: how it compiles, and whether arrays are checked as it traces.
        """
        is_other = self._ways | {way} != {way}
        if file != self._file and (
            is_other or self.is_altered or self._number > self._MOST
        ):
            jax.clear_caches()
            self.is_altered, self._number, self._ways = False, 0, set()
        self._file = file
        self._ways.add(way)

    def _count(self, event: str, seconds: float, **_: Any) -> None:
        self._number += event.endswith("backend_compile_duration")


_compiled = _Compiled()


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts():
    """Spares the wait for the disk: only a power cut would show a difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_tensorflow():
    """Spares the import of TensorFlow, which is seconds, for events of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_is_installed", lambda: False)
        yield


@pytest.fixture
def with_tensorboard(monkeypatch):
    """For tests of TensorBoard's events."""
    monkeypatch.setattr(metrics, "_is_installed", _TENSORBOARD_IS_INSTALLED)


@pytest.fixture(scope="session", autouse=True)
def _models_are_built_once():
    with built_once.installed():
        yield


@pytest.fixture(scope="session", autouse=True)
def _steps_are_compiled_once():
    build_once = compiled_steps.shared()
    with pytest.MonkeyPatch.context() as patch:
        for module in (prepare, steps):
            patch.setattr(module, "build_training", build_once)
        yield


@pytest.fixture
def unchecked_arrays():
    """For tests of what the code itself says of wrong arrays."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def data_config():
    """Makes a data config as load_source reads it, with overrides."""

    def make(**overrides):
        config = base.get_config().data
        config.source = "digits"
        config.update(overrides)
        return config

    return make


@pytest.fixture
def real_data():
    """The folder with real data sets in IDX form, or a skip that says how to set it."""
    folder = Path(os.environ.get("DPDM_JAX_DATA", TESTS.parents[1] / "shared" / "data"))
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no {folder / 'mnist'}; set DPDM_JAX_DATA to a folder with mnist/")
    return folder


@pytest.fixture(scope="session")
def tiny_config():
    """Makes the digits config, cut down to seconds; ``a__b`` is ``config.a.b``."""

    def make(**overrides):
        config = digits.network_alone()
        small = {
            "network__mlp__base_width": 4,
            "network__mlp__hidden_width": 8,
            "diffusion__noise_multiplicity": 2,
            "train__batch_size": 100,
            "train__num_steps": 6,
            "train__microbatch_size": 64,
            "checkpoint__every_steps": 2,
            "checkpoint__keep": 10,
            "log__every_steps": 1,
            "log__snapshot_every_steps": 0,
            "log__tensorboard": False,
        }
        for name, value in (small | overrides).items():
            settings.assign(config, name.replace("__", "."), value)
        # What is small of the digits' kinds goes where others are chosen.
        rooms.forget_foreign(config, [name.replace("__", ".") for name in overrides])
        return config

    return make
