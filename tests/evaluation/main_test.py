"""The command ``python -m dpdm_jax.evaluation``."""

import functools
import json

import numpy as np
import PIL.Image
import pytest
from scipy import linalg


@pytest.fixture
def run(commands):
    return functools.partial(commands.run, module="dpdm_jax.evaluation")


@pytest.fixture
def archives(digits, tmp_path):
    """real.npz, synthetic.npz and test.npz with digits."""
    (images, labels), _, (test_images, test_labels) = digits
    np.savez(tmp_path / "real.npz", images=images[:500], labels=labels[:500])
    np.savez(tmp_path / "synthetic.npz", images=images[500:], labels=labels[500:])
    np.savez(tmp_path / "test.npz", images=test_images, labels=test_labels)
    return tmp_path


@pytest.mark.slow
def test_prints_one_json_line(archives, run):
    done = run(
        f"--real={archives / 'real.npz'}",
        f"--synthetic={archives / 'synthetic.npz'}",
        f"--real_test={archives / 'test.npz'}",
        "--metrics=fid_lenet,coverage_lenet,mlp,memorisation",
        "--lenet_steps=20",
        "--epochs=2",
        "--classifier_seeds=1",
        f"--cache={archives / 'cache'}",
        f"--pictures={archives / 'pictures'}",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    for name in ("fid_lenet", "coverage_lenet", "mlp", "memorisation"):
        assert isinstance(result[name], float)
    assert (result["num_real"], result["num_synthetic"]) == (500, 737)
    assert result["image_shape"] == [8, 8, 1]
    assert result["mlp_std"] is None
    assert result["settings"]["lenet"]["num_steps"] == 20
    assert len(list((archives / "cache").iterdir())) == 3  # network, real, test
    assert len(list((archives / "pictures").iterdir())) == 2


def of_few_vectors(distance):
    """The distance of pytorch-fid within the few directions that any vector has.

    A rotation changes no distance, and the root of a large matrix takes long.
    """

    def measure(mean_1, cov_1, mean_2, cov_2):
        some = np.random.default_rng(0).normal(size=(len(mean_1), 12))
        within = np.column_stack([cov_1 @ some, cov_2 @ some, mean_1 - mean_2])
        basis = linalg.orth(within / np.linalg.norm(within, axis=0))
        means = basis.T @ mean_1, basis.T @ mean_2
        first, second = (basis.T @ cov @ basis for cov in (cov_1, cov_2))
        for whole, part in (cov_1, first), (cov_2, second):
            np.testing.assert_allclose(np.trace(part), np.trace(whole))
        return distance(means[0], first, means[1], second)

    return measure


@pytest.mark.slow
def test_fid_of_png_folders_is_that_of_pytorch_fid(
    run, pytorch_fid, inception_state, tmp_path, monkeypatch
):
    import torch

    rng = np.random.default_rng(0)
    for name, low in (("real", 0), ("synthetic", 60)):
        (tmp_path / name).mkdir()
        for i in range(6):
            waves = np.sin(rng.normal(0, 0.3, (20, 24, 3)).cumsum(axis=0))
            pixels = np.clip(low + 128 + 127 * waves, 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    state = {name: torch.from_numpy(a.copy()) for name, a in inception_state.items()}
    torch.save(state, tmp_path / "weights.pth")
    monkeypatch.setattr(
        pytorch_fid.inception, "load_state_dict_from_url", lambda *a, **k: state
    )
    monkeypatch.setattr(
        pytorch_fid.fid_score,
        "calculate_frechet_distance",
        of_few_vectors(pytorch_fid.fid_score.calculate_frechet_distance),
    )
    folders = [str(tmp_path / name) for name in ("real", "synthetic")]
    expected = pytorch_fid.fid_score.calculate_fid_given_paths(
        folders, batch_size=6, device="cpu", dims=2048, num_workers=0
    )
    done = run(
        f"--real={folders[0]}",
        f"--synthetic={folders[1]}",
        "--metrics=fid",
        f"--inception_weights={tmp_path / 'weights.pth'}",
        "--cache=",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fid"] == pytest.approx(expected, rel=1e-3)
