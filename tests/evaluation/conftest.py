import numpy as np
import pytest

from dpdm_jax import command_line, data


@pytest.fixture(scope="session")
def digits():
    """Real images: 1,237 to train, 200 to select, 360 to test, uint8 8x8x1."""
    config = command_line.load_config("configs/digits.py").data

    def read(split, part):
        source = data.load_source(config, split)
        return source.examples(np.arange(len(source))[part])

    return [
        read("train", slice(1237)),
        read("train", slice(1237, None)),
        read("test", slice(None)),
    ]
