"""Zip files of images, and labels in dataset.json."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels

from dpdm_jax import data
from dpdm_jax.errors import InputError


def png(seed: int, size: int = 4) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels(seed, size)).save(content, format="PNG")
    return content.getvalue()


def pixels(seed: int, size: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, size, 3), np.uint8)


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def labels_of(*pairs):
    return json.dumps({"labels": [list(pair) for pair in pairs]})


NAMES = ("00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png")


@pytest.fixture
def load(data_config, tmp_path):
    def load(files, split="train", **overrides):
        write_zip(tmp_path / "train.zip", files)
        config = data_config(
            **{"source": "image_zip", "path": str(tmp_path)} | overrides
        )
        return data.load_source(config, split)

    return load


def test_labels_are_those_of_the_file(load, tmp_path):
    pairs = list(zip(NAMES, (2, 0, 2), strict=True))
    files = {name: png(i) for i, name in enumerate(NAMES)}
    source = load(files | {"dataset.json": labels_of(*pairs)})
    images, labels = images_and_labels(source, np.arange(3))
    assert labels.tolist() == [2, 0, 2]
    assert source.condition.num_classes == 3
    np.testing.assert_array_equal(images, [pixels(i) for i in range(3)])
    one_file = load(files, path=str(tmp_path / "train.zip"), num_classes=0)
    assert one_file.condition.num_classes == 0


def test_null_means_no_labels(load):
    files = {name: png(0) for name in NAMES}
    source = load(files | {"dataset.json": '{"labels": null}'})
    assert source.condition.num_classes == 0


def test_folders_are_classes_without_the_file(load, tmp_path):
    names = ("10/a.png", "2/b.png", "9/c.png")
    files = {name: png(i) for i, name in enumerate(names)}
    files |= {"__MACOSX/2/._b.png": b"", "2/.DS_Store": b"", "2/notes.txt": b""}
    _, labels = images_and_labels(load(files), np.arange(3))
    assert labels.tolist() == [0, 1, 2]
    write_zip(tmp_path / "test.zip", {"10/a.png": png(0)})
    _, labels = images_and_labels(load(files, "test"), np.arange(1))
    assert labels.tolist() == [2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no images"),
        ({"a.png": png(0), "b/c.png": png(0)}, "both in folders and in none"),
        ({"a.png": png(0), "b.webm.avif": b""}, r"1 images of kinds .*avif"),
        ({"a.png": png(0)[:40]}, r"train\.zip: a\.png cannot be decoded"),
        ({"a.png": png(0), "b.png": png(0, 5)}, r"b\.png is 5x5x3 but a\.png is 4x4x3"),
        ({"a.png": png(0), "dataset.json": labels_of()}, "has no label of a.png"),
        (
            {"a.png": png(0), "dataset.json": labels_of(("a.png", 0), ("b.png", 0))},
            "lists 'b.png', which is not among the images",
        ),
        ({"a.png": png(0), "dataset.json": labels_of(("a.png", 0.5))}, "has the entry"),
        ({"a.png": png(0), "dataset.json": "no"}, "dataset.json cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(load, files, message):
    with pytest.raises(InputError, match=message):
        load(files)


def test_a_missing_split_and_a_damaged_file_are_refused(load, data_config, tmp_path):
    with pytest.raises(InputError, match=r"test\.zip is missing"):
        load({"a.png": png(0)}, "test")
    whole = (tmp_path / "train.zip").read_bytes()
    (tmp_path / "train.zip").write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"train\.zip cannot be read as a zip file"):
        data.load_source(data_config(source="image_zip", path=str(tmp_path)), "train")


def test_a_folder_may_have_the_file_too(data_config, tmp_path):
    for i, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(i))
    pairs = zip(NAMES, (2, 0, 2), strict=True)
    (tmp_path / "dataset.json").write_text(labels_of(*pairs))
    source = data.load_source(
        data_config(source="image_folder", path=str(tmp_path)), "train"
    )
    images, labels = images_and_labels(source, np.arange(3))
    assert labels.tolist() == [2, 0, 2]
    np.testing.assert_array_equal(images, [pixels(i) for i in range(3)])
