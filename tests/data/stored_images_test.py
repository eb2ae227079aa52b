"""Images that stay in their files until a step reads them."""

import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from dpdm_jax import data
from dpdm_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Images of two classes, as files and in a zip file."""
    rng = np.random.default_rng(0)
    root = tmp_path / "files"
    with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
        for i in range(7):
            path = root / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(path)
            archive.write(path, path.relative_to(root))
    return tmp_path


PLACES = (("image_folder", "files"), ("image_zip", "files.zip"))


@pytest.mark.parametrize(("source", "place"), PLACES)
def test_both_readings_are_one(folder, data_config, source, place):
    fields = {"source": source, "path": str(folder / place), "image_size": 4}
    kept = data.load_source(data_config(**fields), "train")
    stored = data.load_source(data_config(**fields, on_demand=True), "train")
    assert isinstance(kept, data.ArraySource)
    assert isinstance(stored, data.StoredSource)
    assert (stored.spec, stored.condition) == (kept.spec, kept.condition)
    chosen = np.array([6, 0, 3])
    for name, found in stored.examples(chosen).items():
        np.testing.assert_array_equal(found, kept.examples(chosen)[name])
        assert found.dtype == stored.spec[name].dtype
    assert data.bind(stored)[1] == data.bind(kept)[1]
    no_labels = data_config(**fields, on_demand=True, num_classes=0)
    assert not data.load_source(no_labels, "train").examples(chosen)["condition"].any()


def test_files_are_read_as_they_are_asked_for(folder, data_config):
    config = data_config(
        source="image_folder", path=str(folder / "files"), on_demand=True
    )
    source = data.load_source(config, "train")
    bound, _ = data.bind(source)
    shutil.copy(folder / "files/a/2.png", folder / "files/b/1.png")
    bound.examples(np.array([0, 1]))
    with pytest.raises(InputError, match="was changed while the run reads it"):
        bound.examples(np.array([4]))
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folder / "files/a/4.png")
    with pytest.raises(InputError, match=r"4\.png is 5x6x3 but .*0\.png is 6x6x3"):
        source.examples(np.array([2]))


def test_arrays_are_read_into_memory(data_config):
    with pytest.raises(InputError, match="'digits', which is read into memory; allo"):
        data.load_source(data_config(on_demand=True), "train")
