import ml_collections
import numpy as np
import pytest

from dpdm_jax import data


@pytest.fixture(scope="session")
def digits():
    """Real images: 1,237 to train, 200 to select, 360 to test, uint8 8x8x1."""
    config = ml_collections.ConfigDict(
        {
            "source": "digits",
            "path": "",
            "train_split": "train",
            "test_split": "test",
            "image_size": 0,
            "channels": 0,
            "num_classes": -1,
            "crop": "none",
            "resize": "lanczos",
            "num_examples": 0,
        }
    )

    def read(split, part):
        source = data.load_source(config, split)
        return source.examples(np.arange(len(source))[part])

    return [
        read("train", slice(1237)),
        read("train", slice(1237, None)),
        read("test", slice(None)),
    ]
