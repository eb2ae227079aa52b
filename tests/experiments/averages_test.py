"""Both runs take the same steps, and each length is measured once."""

import json

import pytest

from dpdm_jax import run_dir
from experiments.averages import __main__ as averages

pytestmark = pytest.mark.slow


def test_rebuilt_against_kept_and_accuracy_by_length(tmp_path, monkeypatch):
    calls = []

    def pretend_evaluation(config, workdir):
        calls.append((config.sample.average, config.sample.name))
        folder = workdir / run_dir.EVALUATION
        folder.mkdir(exist_ok=True)
        measured = {"mlp": 0.5, "mlp_std": 0.1, "other": 1}
        (folder / f"{config.sample.name}.json").write_text(json.dumps(measured))

    monkeypatch.setattr(averages, "evaluate", pretend_evaluation)
    tiny = {
        "network.mlp.base_width": 4,
        "network.mlp.hidden_width": 8,
        "diffusion.noise_multiplicity": 1,
        "train.batch_size": 100,
        "train.num_steps": 8,
        "train.microbatch_size": 64,
        "checkpoint.every_steps": 8,
    }
    found = averages.run(tmp_path, (0.0, 0.15), tiny)
    apart = found["rebuilt_against_kept"]
    assert set(apart) == {str(length) for length in averages.COMPARED}
    # With a copy at each of few steps, of which some profiles see one or two alone.
    assert all(0 < each["relative"] < 0.05 for each in apart.values())
    assert apart["0.075"]["largest_difference"] < 1e-4
    rows = [{"average": x, "mlp": 0.5, "mlp_std": 0.1} for x in (0.0, 0.15)]
    assert found["accuracy"] == rows
    assert averages.run(tmp_path, (0.0, 0.15), tiny) == found
    assert calls == [(0.0, "ema"), (0.15, "average_0.15")]
