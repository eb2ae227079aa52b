"""The committed releases are small, of their configs and state whence they come."""

import json

import pytest

from dpdm_jax import command_line
from dpdm_jax.release.verify import verify
from experiments.latent.check import RELEASES

_PUBLIC = "characters of 1,304 of Debian's fonts"
_NAMES = sorted(folder.name for folder in RELEASES.iterdir())


def size_of(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


@pytest.mark.parametrize("name", _NAMES)
def test_releases_are_intact_and_of_their_config(name):
    outcome = verify(RELEASES / name)
    assert outcome.failures == ()
    statement = json.loads((RELEASES / name / "PRIVACY.json").read_text())
    assert statement["codec"]["public_data"] == _PUBLIC
    if name == "glyphs":
        assert not outcome.statement["private"]
        assert statement["public_data"] == _PUBLIC
        assert size_of(RELEASES / name) < 2 * 10**6
        return
    config = command_line.load_config(
        f"configs/mnist_ldm_cpu.py:{name.replace('mnist_eps', 'eps=')}"
    )
    assert float(outcome.statement["epsilon"]) <= config.privacy.epsilon
    assert float(outcome.statement["delta"]) == config.privacy.delta == 1e-5
    assert statement["lineage"]["public_data"] == _PUBLIC


def test_all_have_the_autoencoder_of_the_public_stage():
    codecs = [
        json.loads((RELEASES / name / "PRIVACY.json").read_text())["codec"]
        for name in _NAMES
    ]
    assert len({codec["sha256"] for codec in codecs}) == 1
