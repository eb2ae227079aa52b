"""The committed releases are small, state their budget, and can be checked."""

import functools
import json
import pathlib
import sys
import types

import jax
import numpy as np
import pytest

from dpdm_jax import command_line, load_release
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation.settings import Settings
from dpdm_jax.release.verify import verify
from experiments.mnist_cpu import check, curve, plot, train
from experiments.mnist_cpu.runs import RELEASES, RESULTS, RUNS

_NAMES = sorted(folder.name for folder in RELEASES.iterdir())


@pytest.mark.parametrize("name", _NAMES)
def test_releases_are_small_intact_and_of_their_config(name):
    outcome = verify(RELEASES / name)
    assert outcome.failures == ()
    assert outcome.statement["private"]
    config = command_line.load_config(RUNS[name])
    assert float(outcome.statement["epsilon"]) <= config.privacy.epsilon
    assert float(outcome.statement["delta"]) == config.privacy.delta == 1e-5
    files = (f for f in (RELEASES / name).rglob("*") if f.is_file())
    # Half of the largest are 32 components of ten classes and of all.
    assert sum(f.stat().st_size for f in files) < 1.2e6
    assert json.loads((RESULTS / f"{name}.json").read_text())["seconds"] > 0


@pytest.mark.slow
def test_a_run_trains_and_releases(commands, tmp_path, monkeypatch, capsys):
    write_idx(tmp_path / "data")

    def run(command, check):
        assert command[:3] == [sys.executable, "-m", "dpdm_jax.main"]
        done = commands.run(*command[3:])
        assert check
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(train, "subprocess", types.SimpleNamespace(run=run))
    monkeypatch.setattr(train, "RELEASES", tmp_path / "releases")
    monkeypatch.setattr(train, "RESULTS", tmp_path / "results")
    size = "--config.data.num_examples=50 --config.train.batch_size=25"
    short = "--config.train.num_steps=4 --config.train.microbatch_size=50"
    delta = "--config.privacy.delta=1e-3 --config.log.snapshot_every_steps=0"
    delta += " --config.log.tensorboard=False"
    command = ["mnist_eps10", f"--data={tmp_path / 'data'}"]
    command += [f"--workdir={tmp_path / 'run'}", *f"{size} {short} {delta}".split()]
    keep = ["--config.checkpoint.every_steps=2", "--config.checkpoint.keep=20"]
    train.main(command + keep)
    written = tmp_path / "results/mnist_eps10.json"
    result = json.loads(written.read_text())
    assert result["seconds"] > 0
    assert result["curve"][-1]["step"] == 4
    # What is finished is not trained again.
    train.main(command + keep)
    assert json.loads(written.read_text()) == result
    assert verify(tmp_path / "releases/mnist_eps10").failures == ()

    def first_weight(released, *_, **__):
        # No step changes the moments.
        weights = jax.tree.leaves(released.params["network"])
        weight = float(weights[0].ravel()[0])
        return {"accuracy": weight, "fid_lenet": 0.0}

    monkeypatch.setattr(curve, "check", first_weight)
    curve.main(command[:3])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[0]["accuracy"] != rows[1]["accuracy"]
    manifest = json.loads((tmp_path / "run/release/MANIFEST.json").read_text())
    assert manifest["step"] == 4


def write_idx(folder):
    """Writes 50 training and 20 test images as MNIST's four files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, n in ("train", 50), ("t10k", 20):
        for kind, values in (
            ("images-idx3", rng.integers(0, 256, (n, 28, 28))),
            ("labels-idx1", np.arange(n) % 10),
        ):
            shape = b"".join(side.to_bytes(4, "big") for side in values.shape)
            header = bytes([0, 0, 8, values.ndim]) + shape
            data = header + values.astype(np.uint8).tobytes()
            (folder / f"{split}-{kind}-ubyte").write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_releases_give_the_images_that_they_always_gave(name):
    """As made when they were published; other processors may round to another level."""
    with np.load(pathlib.Path(__file__).with_name("released_samples.npz")) as archive:
        expected = archive[name]
    images, _ = load_release(RELEASES / name).sample(3, labels=[0, 4, 9], seed=3)
    apart = np.abs(images.astype(int) - expected)
    assert apart.max() <= 1
    assert np.mean(apart) < 0.01


@pytest.mark.slow
def test_a_release_is_checked(tmp_path, capsys, monkeypatch):
    """On its own images in place of real ones, by the cheapest classifier."""
    name = _NAMES[0]

    def load(folder):
        released = load_release(folder)
        released.config.sampler.num_steps = 6
        return released

    images, labels = load(RELEASES / name).sample(100, labels="balanced", seed=1)
    assert np.ptp(images) > 200  # there is something to see
    for split in "train", "test":
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
    quick = functools.partial(Settings, lenet_steps=4)
    monkeypatch.setattr(check, "Settings", quick)
    monkeypatch.setattr(check, "load_release", load)
    chosen = [f"--release={name}", "--images=100", "--classifier=logreg"]
    check.main([f"--data={tmp_path}", *chosen])
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 100
    assert result["accuracy"] > 0.5  # 0.1 by chance
    assert result["fid_lenet"] > 0


@pytest.mark.slow
def test_a_release_is_checked_without_its_network():
    found = {
        name: load_release(RELEASES / name)
        for name in ("fashion_mnist_eps10", "mnist_eps0.2")
    }
    measured = found["fashion_mnist_eps10"]
    assert measured.model.num_trained < measured.model.num_parameters
    check._remove_network(measured)
    x = np.random.default_rng(0).standard_normal((2, 28, 28, 1))
    x = x.astype(np.float32)
    arguments = np.ones(2, np.float32), np.arange(2)
    denoise = measured.model.denoise
    at_zero, once, twice = (
        np.asarray(denoise(measured.params, scale * x, *arguments))
        for scale in (0, 1, 2)
    )
    np.testing.assert_allclose(twice - once, once - at_zero, atol=1e-5)
    assert np.ptp(at_zero) > 0.5  # the classes' means
    with pytest.raises(InputError, match="'edm_dct', which measures no moments"):
        check._remove_network(found["mnist_eps0.2"])


def test_extrapolation_of_a_power_law():
    hours = [0.1, 0.3, 1.0]
    errors = [20 * x**-0.4 for x in hours]
    found = plot.extrapolate(hours, errors, [2.0, 4.0])
    assert found == pytest.approx([20 * 2**-0.4, 20 * 4**-0.4])
