"""What an earlier version left on disk is read as it was meant, or refused.

``tests/stored`` holds two runs that commit 2f9126c trained on the digits, ``plain``
and, with measured moments, ``moments``: run directory, release, and samples of both.
"""

import pathlib
import shutil

import numpy as np
import pytest
from commands import CHECKOUT

from dpdm_jax import command_line, load_release, stored_config
from dpdm_jax.errors import InputError
from dpdm_jax.json_values import loads
from dpdm_jax.privacy import read_ledger, statement_of
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.loop import train

pytestmark = pytest.mark.slow

STORED = CHECKOUT / "tests" / "stored"


@pytest.fixture(params=["plain", "moments"])
def name(request) -> str:
    return request.param


@pytest.fixture
def workdir(name, tmp_path) -> pathlib.Path:
    """A copy of the run directory."""
    return pathlib.Path(shutil.copytree(STORED / name / "run", tmp_path / "run"))


def config_of(workdir):
    path = workdir / "config.json"
    return stored_config.read(loads(path.read_bytes()), path)


def assert_same_images(found, expected):
    # Truncation to uint8 makes a last bit of another processor a grey level.
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_a_release_verifies_and_samples_to_the_same_images(name):
    folder = STORED / name / "release"
    assert verify(folder).failures == ()
    images, labels = load_release(folder).sample(20, labels="balanced", seed=1)
    with np.load(STORED / name / "from_release.npz") as expected:
        np.testing.assert_array_equal(labels, expected["labels"])
        assert_same_images(images, expected["images"])


def test_a_ledger_says_what_it_said(name, workdir):
    text = (STORED / name / "release" / "PRIVACY.md").read_text()
    said = statement_of(read_ledger(workdir / "privacy.json")).splitlines()[0]
    assert "epsilon = 8.0000" in said
    assert said in text


def test_a_checkpoint_is_sampled_from(name, workdir):
    folder = sampling_run.sample(config_of(workdir), workdir)
    with (
        np.load(STORED / name / "from_run.npz") as expected,
        np.load(folder / sampling_run.ARCHIVE) as found,
    ):
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        assert_same_images(found["images"], expected["images"])


def test_a_run_is_not_gone_on_with(workdir):
    (workdir / ".lock").touch()
    before = sorted(p.name for p in workdir.rglob("*"))
    with pytest.raises(InputError, match=r"allowed: .*new directory"):
        train(config_of(workdir), workdir)
    assert sorted(p.name for p in workdir.rglob("*")) == before


def test_config_files_have_the_fields_of_today(name, workdir):
    config = config_of(workdir)
    assert config.network.mlp.hidden_width == 8
    assert config.network.to_dict().keys() == (
        command_line.load_config("configs/digits.py").network.to_dict().keys()
    )
