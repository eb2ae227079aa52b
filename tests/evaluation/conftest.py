import numpy as np
import pytest
from reading import images_and_labels

from dpdm_jax import command_line, data
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
def inception_state():
    """Random weights of FID's Inception, by the names of the published file."""
    return evaluation_problem.inception_state()


@pytest.fixture(scope="session")
def pytorch_fid():
    """The package pytorch-fid, or a skip that says what is missing."""
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_fid")
    yield from evaluation_problem.imported_pytorch_fid()
