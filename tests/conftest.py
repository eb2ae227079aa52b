import dataclasses
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Before JAX initialises, for this process and all that tests start: compiling is most
# of the time, small programs included.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
_CHEAPLY = "JAX_DISABLE_MOST_OPTIMIZATIONS"
os.environ.setdefault(_CHEAPLY, "1")
# Threads that spin while they wait take the other worker's core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(TESTS.parent))  # for experiments/, which is not installed
sys.path.insert(0, str(TESTS / "plugins"))
sys.path.insert(0, str(TESTS))  # for earlier_configs, float_sums

import array_types  # noqa: E402

array_types.install()  # before what it checks is imported

from dpdm_jax import command_line, rooms, settings, xla_flags  # noqa: E402
from dpdm_jax.configs import base  # noqa: E402

# Files of half a minute of processor time and more, the costliest first.
_COSTLY = (
    "experiments/benchmarks_test.py",
    "training/devices_test.py",
    "privacy/engines_test.py",
    "experiments/mnist_cpu_test.py",
    "privacy/clipping_test.py",
    "training/trainable_test.py",
    "training/loop_test.py",
    "entry_points_test.py",
    "training/faults_test.py",
    "configs_test.py",
    "evaluation/lenet_features_test.py",
    "parity_test.py",
    "export_test.py",
)

pytest_plugins = ["processor_time", "commands"]

xla_flags.configure()

import cheap_compilation  # noqa: E402
import jax  # noqa: E402
import jaxtyping  # noqa: E402

cheap_compilation.install()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(TESTS / "golden"),
        help="folder of figures from the official code; see tests/golden/README.md",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hands out files in the order of collection, not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts costly files first, so that no worker is left with one at the end."""
    places = {TESTS / name: place for place, name in enumerate(_COSTLY)}
    items.sort(key=lambda item: places.get(item.path, len(_COSTLY)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles as users do for tests marked so, and as cheaply as can be for others."""
    cheaply = item.get_closest_marker("optimized") is None
    os.environ[_CHEAPLY] = str(int(cheaply))
    jax.config.update("jax_disable_most_optimizations", cheaply)
    array_types.select(item.path.relative_to(TESTS))


@pytest.fixture(scope="module", autouse=True)
def _programs_do_not_pile_up():
    """A process has room for some thousand compiled programs, and then ends."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts():
    """Spares the wait for the disk: only a power cut would show a difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _steps_are_compiled_once():
    """Runs of one config and plan share their step, which takes no key and no data."""
    from dpdm_jax.training import prepare, steps

    build, made = steps.build_training, {}

    def build_once(config, plan, loss, noise_key, mesh):
        training = build(config, plan, loss, noise_key, mesh)
        fields = config.copy_and_resolve_references()
        fields.train.stop_after_steps = 0
        fields.codec.cache = "auto"
        chosen = ("data", "codec", "network", "diffusion")
        groups = (repr(fields[name]) for name in chosen)
        key = (*groups, repr(fields.train), repr(plan), mesh, os.environ[_CHEAPLY])
        step_fns = made.setdefault(key, training.step_fns)
        return dataclasses.replace(training, step_fns=step_fns)

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
        config = command_line.load_config("configs/digits.py")
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
