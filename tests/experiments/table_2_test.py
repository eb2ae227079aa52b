"""The classifiers of Table 2 train on a folder of images and say how."""

import json

import numpy as np
import pytest

from dpdm_jax import load_release
from experiments.mnist_cpu.runs import RELEASES
from experiments.table_2 import __main__ as table_2
from experiments.table_2 import plot


@pytest.fixture
def folder(tmp_path):
    """Images of one grey a class: easily told apart."""
    rng = np.random.default_rng(0)
    for split, size in ("train", 600), ("test", 100):
        labels = np.arange(size) % 2
        greys = 60 + 120 * labels[:, None, None, None]
        images = rng.normal(greys, 20, (size, 8, 8, 1)).clip(0, 255).astype(np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
    return tmp_path


@pytest.mark.slow
def test_both_trainings_are_recorded(folder, capsys):
    arguments = "--epsilons 10 inf --classifiers logreg --seeds 0 1 --epochs 3"
    table_2.main([f"--data={folder}", "--delta=1e-3", *arguments.split()])
    result = json.loads(capsys.readouterr().out)
    private, ordinary = result["rows"]
    assert private["epsilon"] == 10
    assert private["settings"]["noise_multiplier"] > 0
    assert ordinary["epsilon"] is None
    for row in result["rows"]:
        assert row["classifier"] == "logreg"
        assert len(row["accuracies"]) == 2
        assert row["accuracy"] > 0.9
        assert row["settings"]["epochs"] == 3
    assert ordinary["settings"]["num_train"] == 480  # the rest selects the epoch
    assert private["settings"]["num_train"] == 600


@pytest.mark.slow
def test_samples_of_a_release_take_the_real_training_images_place(
    tmp_path, capsys, monkeypatch
):
    """Tested on the release's own images, so that there is something to learn."""

    def load(folder):
        released = load_release(folder)
        released.config.sampler.num_steps = 6
        return released

    monkeypatch.setattr(table_2, "load_release", load)
    released = load(RELEASES / "mnist_eps10")
    images, labels = released.sample(100, labels="balanced", seed=1)
    np.savez(tmp_path / "test.npz", images=images, labels=labels)
    arguments = "--release=mnist_eps10 --images=200 --classifiers logreg --epochs 30"
    table_2.main([f"--data={tmp_path}", *arguments.split()])
    result = json.loads(capsys.readouterr().out)
    assert result["release_budget"] == {"epsilon": 10.0, "delta": 1e-5}
    (row,) = result["rows"]
    assert row["epsilon"] is None
    assert row["settings"]["num_train"] == 160
    assert row["accuracy"] > 0.5  # 0.1 by chance


def test_a_release_has_its_own_epsilon(tmp_path, capsys):
    with pytest.raises(SystemExit):
        table_2.main([f"--data={tmp_path}", "--release=mnist_eps10", "--epsilons", "1"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_figures_are_found_and_drawn(tmp_path, monkeypatch):
    rows = [
        {"epsilon": 1.0, "classifier": "mlp", "accuracy": 0.875},
        {"epsilon": None, "classifier": "mlp", "accuracy": 0.96},
    ]
    private = {"data": "mnist", "rows": rows}
    budget = {"epsilon": 0.1999, "delta": 1e-5}
    samples = {"data": "mnist", "release_budget": budget, "release": "mnist_eps0.2"}
    samples["rows"] = rows[1:]
    check = {"release": "fashion_mnist_eps10", "epsilon": "9.9999"}
    check |= {"classifier": "cnn", "accuracy": 0.75}
    assert plot.accuracies([private, samples], [check]) == {
        ("mnist", 1.0, "mlp", "DP-SGD"): 87.5,
        ("mnist", 0.2, "mlp", "samples"): 96.0,
        ("fashion_mnist", 10.0, "cnn", "samples"): 75.0,
    }
    monkeypatch.setattr(plot, "PICTURE", tmp_path / "table_2.png")
    plot.main()
    assert (tmp_path / "table_2.png").read_bytes().startswith(b"\x89PNG")
