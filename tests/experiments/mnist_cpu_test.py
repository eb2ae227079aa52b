"""The committed release is small, states its budget, and can be checked."""

import json

import numpy as np
import pytest

from dpdm_jax import load_release
from dpdm_jax.release.verify import verify
from experiments.mnist_cpu import check

_FOLDERS = sorted(check.RELEASES.iterdir())


@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
def test_releases_are_small_and_intact(folder):
    outcome = verify(folder)
    assert outcome.failures == ()
    assert outcome.statement["private"]
    budget = float(folder.name.removeprefix("eps"))
    assert float(outcome.statement["epsilon"]) <= budget
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 10**6


def test_a_release_is_checked(tmp_path, capsys):
    """On its own images in place of real ones, by the cheapest classifier."""
    images, labels = load_release(_FOLDERS[0]).sample(400, labels="balanced", seed=1)
    assert np.ptp(images) > 200  # there is something to see
    for split in "train", "test":
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
    chosen = f"--release={_FOLDERS[0].name} --images=200 --classifier=logreg"
    check.main([f"--data={tmp_path}", *chosen.split()])
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 200
    assert result["accuracy"] > 0.5  # 0.1 by chance
    assert result["fid_lenet"] > 0
