"""From an official checkpoint to samples."""

import pathlib

import numpy as np
import pytest

from dpdm_jax import command_line
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.interop.import_checkpoint import import_checkpoint
from dpdm_jax.models.model import build_model
from dpdm_jax.sampling import run
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train

pytest.importorskip("torch", reason="PyTorch reads the official format")

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
CHECKPOINT = GOLDEN / "official_checkpoint_nf8.pth"


def small_mnist(**network):
    config = command_line.load_config("configs/mnist.py:eps=1")
    config.network.ncsnpp.base_width = 8
    config.network.ncsnpp.update(network)
    config.sampler.num_steps = 3
    config.sample.num_images = 4
    config.sample.batch_size = 4
    return config


@pytest.mark.slow
def test_imported_weights_denoise_as_the_official_model_does(tmp_path):
    config = small_mnist()
    assert import_checkpoint(CHECKPOINT, config, tmp_path) == 17
    checkpoints = Checkpoints(tmp_path)
    model = build_model(config, (28, 28, 1), of_classes(10))
    params, step = checkpoints.restore_weights(model, "ema")
    raw, _ = checkpoints.restore_weights(model, "raw")
    checkpoints.close()
    assert step == 17
    with np.load(GOLDEN / "official_checkpoint_nf8_expected.npz") as expected:
        x = expected["x"].transpose(0, 2, 3, 1)
        wanted = expected["denoised_ema"].transpose(0, 2, 3, 1)
        sigma, label = expected["sigma"], expected["y"].astype(np.int32)
    made = model.denoise(params, x, sigma, label)
    np.testing.assert_allclose(made, wanted, rtol=0, atol=2e-5)
    assert np.abs(model.denoise(raw, x, sigma, label) - wanted).max() > 1e-3


@pytest.mark.slow
def test_sampling_from_an_import_and_not_training_on(tmp_path):
    config = small_mnist()
    import_checkpoint(CHECKPOINT, config, tmp_path)
    folder = run.sample(config, tmp_path)
    with np.load(folder / run.ARCHIVE) as archive:
        assert archive["images"].shape == (4, 28, 28, 1)
    with pytest.raises(InputError, match="already"):
        import_checkpoint(CHECKPOINT, config, tmp_path)
    digits = command_line.load_config("configs/digits.py")
    with pytest.raises(InputError, match=r"no privacy\.json"):
        train(digits, tmp_path)


@pytest.mark.parametrize(
    ("network", "message"),
    [({"base_width": 16}, "shape"), ({"num_res_blocks": 1}, "unexpected|missing")],
)
def test_another_network_is_refused_and_nothing_is_written(tmp_path, network, message):
    with pytest.raises(InputError, match=message):
        import_checkpoint(CHECKPOINT, small_mnist(**network), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_part_of_the_network_is_refused(tmp_path):
    config = small_mnist()
    config.train.trainable = "attention"
    with pytest.raises(InputError, match="trainable is 'attention'; allowed: all"):
        import_checkpoint(CHECKPOINT, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="nothing"):
        import_checkpoint(tmp_path / "nothing.pth", small_mnist(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
