import functools
import itertools
import pathlib

import pytest

from dpdm_jax.audit import canaries, images
from dpdm_jax.training.loop import train
from dpdm_jax.training.secrets import fixed_secrets


@pytest.fixture
def same_entropy(monkeypatch):
    """The secrets of an audit's runs are the same in every test, and all different."""
    seeds = itertools.count()
    for module in canaries, images:
        monkeypatch.setattr(module, "fresh_secrets", lambda: fixed_secrets(next(seeds)))


@pytest.fixture(scope="session")
def make_config(tiny_config):
    """``tiny_config`` with an audit of seconds."""
    return functools.partial(
        tiny_config,
        train__batch_size=360,
        train__microbatch_size=128,
        audit__canaries=200,
        audit__runs=100,
        audit__run_steps=3,
        audit__images=40,
        audit__noise_draws=4,
    )


@pytest.fixture(scope="session")
def trained(make_config, tmp_path_factory) -> pathlib.Path:
    """The directory of a finished run."""
    workdir = tmp_path_factory.mktemp("audit") / "run"
    train(make_config(), workdir)
    return workdir
