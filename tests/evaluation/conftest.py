import jax
import numpy as np
import pytest
from reading import images_and_labels

from dpdm_jax import command_line, data
from dpdm_jax.conditions import of_classes
from dpdm_jax.models.model import build_model
from dpdm_jax.training.checkpoints import Checkpoints
from experiments.benchmarks import evaluation_problem


@pytest.fixture(scope="session")
def digits():
    """Real images: 1,237 to train, 200 to select, 360 to test, uint8 8x8x1."""
    config = command_line.load_config("configs/digits.py").data

    def read(split, part):
        source = data.load_source(config, split)
        return images_and_labels(source, np.arange(len(source))[part])

    return [
        read("train", slice(1237)),
        read("train", slice(1237, None)),
        read("test", slice(None)),
    ]


@pytest.fixture(scope="session")
def with_checkpoint():
    """Gives a folder a checkpoint with random weights for 8x8 images."""

    def write(config, folder, num_classes=10):
        model = build_model(config, (8, 8, 1), of_classes(num_classes))
        params = model.init(jax.random.key(0))
        checkpoints = Checkpoints(folder, keep=1)
        checkpoints.save_imported(model, 1, params, params, config={}, origin={})
        checkpoints.close()
        return folder

    return write


@pytest.fixture(scope="session")
def inception_state():
    """Random weights of FID's Inception, by the names of the published file."""
    return evaluation_problem.inception_state()


@pytest.fixture(scope="session")
def pytorch_fid():
    """The package pytorch-fid, or a skip that says what is missing."""
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_fid")
    yield from evaluation_problem.imported_pytorch_fid()
