"""Writers are invented as stated, and what is finished is not run again."""

import json

import numpy as np

from dpdm_jax import data, planning, run_dir
from dpdm_jax.privacy import Ledger, PrivacyConfig, make_plan
from experiments.people import __main__ as people


def test_writers_have_so_many_images():
    labels = np.random.default_rng(0).integers(0, 10, 101)
    for kind in ("mixed", "alike"):
        found = people.writers(labels, 4, kind)
        assert np.bincount(found).tolist() == 25 * [4] + [1]
        digits = [len(set(labels[found == writer])) for writer in range(25)]
        assert np.mean(digits) < 1.5 if kind == "alike" else np.mean(digits) > 2.5
    assert people.writers(labels, 1, "mixed").max() == 100


def test_a_run_is_of_its_writers_and_made_once(tmp_path, monkeypatch):
    calls = []

    def pretend_training(config, workdir):
        source = data.load_source(config.data, "train")
        groups = data.load_groups(config.data, source)
        unit = planning.unit_of(config)
        calls.append((len(source), len(groups), config.train.batch_size, unit.images))
        stated = PrivacyConfig(len(groups), 90, 10.0, 1e-4, num_steps=2, unit=unit)
        Ledger.create(workdir / run_dir.LEDGER, make_plan(stated))

    def pretend_evaluation(config, workdir):
        folder = workdir / run_dir.EVALUATION
        folder.mkdir()
        measured = {"mlp": 0.5, "mlp_std": 0.1, "other": 1}
        (folder / "samples.json").write_text(json.dumps(measured))

    monkeypatch.setattr(people, "train", pretend_training)
    monkeypatch.setattr(people, "evaluate", pretend_evaluation)
    rows = [people.run(8, "alike", tmp_path / "run") for _ in range(2)]
    assert calls == [(1437, 180, 90, 8)]
    assert rows[0] == rows[1]
    assert rows[0]["writers"] == 180
    assert rows[0]["mlp"] == 0.5
