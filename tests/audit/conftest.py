import os
import pathlib

import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.training.loop import train


@pytest.fixture
def same_entropy(monkeypatch):
    """Secrets as ever, of which the operating system would give the same each time."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


@pytest.fixture(scope="session")
def make_config():
    """The digits config, cut down to seconds; ``a__b`` stands for ``config.a.b``."""

    def make(**overrides):
        config = command_line.load_config("configs/digits.py")
        small = {
            "network__base_width": 4,
            "network__hidden_width": 8,
            "diffusion__noise_multiplicity": 2,
            "train__batch_size": 360,
            "train__num_steps": 6,
            "train__microbatch_size": 128,
            "log__snapshot_every_steps": 0,
            "log__tensorboard": False,
            "audit__canaries": 200,
            "audit__runs": 100,
            "audit__run_steps": 3,
            "audit__images": 40,
            "audit__noise_draws": 4,
        }
        for name, value in (small | overrides).items():
            group, field = name.split("__")
            config[group][field] = value
        return config

    return make


@pytest.fixture(scope="session")
def trained(make_config, tmp_path_factory) -> pathlib.Path:
    """The directory of a finished run."""
    workdir = tmp_path_factory.mktemp("audit") / "run"
    train(make_config(), workdir)
    return workdir
