"""Runs from nothing are commands of their own, made once, and put together by seed."""

import json
import pathlib
import sys
import types

import pytest

from dpdm_jax import run_dir
from dpdm_jax.privacy import Ledger, PrivacyConfig, make_plan
from experiments.digits import __main__ as digits


@pytest.fixture
def commands_given(monkeypatch, tmp_path):
    """Pretends to train: an evaluation whose accuracy tells the seed."""
    given = []

    def run(command, cwd, check):
        assert check
        given.append(command)
        seed = int(command[-2].partition("=")[2])
        workdir = cwd / "runs" / pathlib.Path(command[-1]).stem
        workdir.mkdir(parents=True)
        stated = PrivacyConfig(100, 50, 10.0, 1e-4, num_steps=2)
        Ledger.create(workdir / run_dir.LEDGER, make_plan(stated))
        measured = {"mlp": 0.9 + seed / 100, "fid_lenet": 50.0, "fid_lenet_floor": 17.0}
        folder = workdir / run_dir.EVALUATION
        folder.mkdir()
        (folder / "samples.json").write_text(json.dumps(measured | {"other": 1}))

    monkeypatch.setattr(digits, "subprocess", types.SimpleNamespace(run=run))
    monkeypatch.setattr(digits, "RESULTS", tmp_path / "results")
    return given


def test_each_seed_is_a_command_and_all_are_put_together(commands_given, tmp_path):
    arguments = ["--runs", "digits_finetune", f"--workdir={tmp_path / 'runs'}"]
    for _ in range(2):
        digits.main(arguments)
    assert [command[:3] for command in commands_given] == 3 * [
        [sys.executable, "-m", "dpdm_jax.main"]
    ]
    for seed, command in enumerate(commands_given):
        assert command[3] == f"--config.seed={seed}"
        config = pathlib.Path(command[4].partition("=")[2])
        assert config.is_file()
        assert config.name == "digits_finetune.py"
    found = json.loads((tmp_path / "results/digits_finetune.json").read_text())
    assert [row["seed"] for row in found["rows"]] == [0, 1, 2]
    assert found["mlp"] == pytest.approx(0.91)
    assert found["mlp_std"] == pytest.approx(0.01)
    assert found["fid_lenet_std"] == 0
    assert found["epsilon"] <= 10
    assert "alignment" not in found
    assert found["commits"] == [found["rows"][0]["commit"]]


def test_one_run_has_no_spread(commands_given, tmp_path):
    digits.main(["--runs", "digits", "--seeds", "2", f"--workdir={tmp_path / 'runs'}"])
    found = json.loads((tmp_path / "results/digits.json").read_text())
    assert found["mlp"] == pytest.approx(0.92)
    assert "mlp_std" not in found
