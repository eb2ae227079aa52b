"""The committed releases are small, of their configs and state whence they come."""

import json

import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.release.verify import verify
from experiments.finetune import check
from experiments.finetune.check import RELEASES

_PUBLIC = "characters of 1,304 of Debian's fonts"
_NAMES = sorted(folder.name for folder in RELEASES.iterdir())


@pytest.mark.parametrize("name", _NAMES)
def test_releases_are_small_intact_and_of_their_config(name):
    outcome = verify(RELEASES / name)
    assert outcome.failures == ()
    statement = json.loads((RELEASES / name / "PRIVACY.json").read_text())
    if name == "glyphs":
        assert not outcome.statement["private"]
        assert statement["public_data"] == _PUBLIC
    else:
        spec = f"configs/mnist_finetune.py:{name.replace('mnist_eps', 'eps=')}"
        config = command_line.load_config(spec)
        assert float(outcome.statement["epsilon"]) <= config.privacy.epsilon
        assert float(outcome.statement["delta"]) == config.privacy.delta == 1e-5
        assert statement["lineage"]["public_data"] == _PUBLIC
    files = (f for f in (RELEASES / name).rglob("*") if f.is_file())
    assert sum(f.stat().st_size for f in files) < 10**6


@pytest.mark.slow
def test_a_classifier_is_trained_on_glyphs(tmp_path, capsys, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), np.uint8)
    for split in "train", "test":
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.arange(20) % 10)
    monkeypatch.setattr(check, "_CLASSIFIER", "logreg")
    check.main([f"--data={tmp_path}", "--fonts=", "--images=50"])
    result = json.loads(capsys.readouterr().out)
    assert (result["glyphs"], result["classifier"]) == (50, "logreg")
    assert 0 <= result["accuracy"] <= 1
