import functools
import pathlib
import shutil

import pytest

from dpdm_jax import files, run_dir
from dpdm_jax.release.build import release
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.loop import train

CLASS_NAMES = (
    *("zero", "one", "two", "three", "four"),
    *("five", "six", "seven", "eight", "nine"),
)


@pytest.fixture(scope="session")
def make_config(tiny_config):
    """``tiny_config`` with few samples of few steps, and names of its classes."""
    return functools.partial(
        tiny_config,
        data__class_names=CLASS_NAMES,
        sampler__num_steps=4,
        sample__num_images=30,
        sample__batch_size=8,
    )


@pytest.fixture(scope="session")
def trained(make_config, tmp_path_factory) -> pathlib.Path:
    """A run directory: trained, sampled from, evaluated after a fashion. Read-only."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    config = make_config()
    train(config, workdir)
    sampling_run.sample(config, workdir)
    files.write_json(
        workdir / run_dir.EVALUATION / "downstream.json",
        {"accuracy": 0.987654321, "data": "/home/someone/scans"},
    )
    return workdir


@pytest.fixture(scope="session")
def released(make_config, trained) -> pathlib.Path:
    """The release of ``trained``, samples and all. Read-only."""
    return release(make_config(release__samples="samples"), trained)


@pytest.fixture
def workdir(trained, released, tmp_path) -> pathlib.Path:
    """A copy of ``trained`` without a release."""
    copy = tmp_path / "run"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("release"))
    return copy


@pytest.fixture
def bundle_copy(released, tmp_path) -> pathlib.Path:
    """A copy of ``released`` to tamper with."""
    return pathlib.Path(shutil.copytree(released, tmp_path / "bundle"))
