import os
import pathlib

import ml_collections
import pytest


@pytest.fixture
def data_config():
    """Makes a data config as load_source reads it, with overrides."""

    def make(**overrides):
        config = ml_collections.ConfigDict(
            {
                "source": "digits",
                "path": "",
                "name": "",
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
        config.update(overrides)
        return config

    return make


@pytest.fixture
def real_data():
    """The folder with real data sets in IDX form, or a skip that says how to set it."""
    beside = pathlib.Path(__file__).parents[3] / "shared" / "data"
    folder = pathlib.Path(os.environ.get("DPDM_JAX_DATA", beside))
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no {folder / 'mnist'}; set DPDM_JAX_DATA to a folder with mnist/")
    return folder
