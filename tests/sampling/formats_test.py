"""The same images in the formats that people load, whole or not at all."""

import csv
import io
import json
import sys
import tarfile

import ml_collections
import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels

from dpdm_jax import files
from dpdm_jax.data import parquet as source
from dpdm_jax.data.sources import DataSettings
from dpdm_jax.errors import InputError
from dpdm_jax.sampling import maker
from dpdm_jax.sampling.formats import parquet, png, registry, webdataset
from dpdm_jax.sampling.formats.base import ImageSet

arrow = pytest.importorskip("pyarrow.parquet")

NAMES = ("cat", "dog", "owl")


def set_of(count=7, channels=3, **fields) -> ImageSet:
    shape = (count, 5, 4, channels)
    images = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    labels = np.arange(count, dtype=np.int32) % 3
    return ImageSet(images, **({"labels": labels, "class_names": NAMES} | fields))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in (parquet, png, webdataset):
        monkeypatch.setattr(module, "PART_SIZE", 3)


def decoded(content) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        array = np.asarray(image)
        return array[..., None] if image.mode == "L" else array


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_parquet(folder):
    paths = sorted(folder.iterdir())
    assert [p.name for p in paths] == [
        f"train-0000{i}-of-00003.parquet" for i in range(3)
    ]
    return [row for path in paths for row in arrow.read_table(path).to_pylist()]


def read_tars(folder):
    found = {}
    for path in sorted(folder.glob("train-0000?-of-00003.tar")):
        with tarfile.open(path) as archive:
            for about in archive:
                found[about.name] = archive.extractfile(about).read()
    return found


def test_parquet_with_classes(tmp_path):
    whole = set_of(channels=1)
    registry.write(tmp_path, ["parquet"], whole)
    rows = read_parquet(tmp_path / "parquet")
    np.testing.assert_array_equal(
        [decoded(row["image"]["bytes"]) for row in rows], whole.images
    )
    assert [row["label"] for row in rows] == whole.labels.tolist()
    schema = arrow.read_schema(tmp_path / "parquet" / "train-00000-of-00003.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"names": list(NAMES), "_type": "ClassLabel"},
    }


def test_parquet_is_a_source_of_training(tmp_path):
    whole = set_of()
    registry.write(tmp_path, ["parquet"], whole)
    settings = DataSettings(path=str(tmp_path / "parquet"))
    images, labels = images_and_labels(
        source.load(source.Settings(), settings, "train")
    )
    np.testing.assert_array_equal(images, whole.images)
    np.testing.assert_array_equal(labels, whole.labels)


def test_tars(tmp_path):
    whole = set_of()
    registry.write(tmp_path, ["webdataset"], whole)
    found = read_tars(tmp_path / "webdataset")
    assert list(found)[:3] == ["0000000.png", "0000000.cls", "0000001.png"]
    assert len(found) == 14
    for i in range(7):
        np.testing.assert_array_equal(decoded(found[f"{i:07d}.png"]), whole.images[i])
        assert int(found[f"{i:07d}.cls"]) == i % 3


def test_prompts(tmp_path):
    texts = np.array(["a cat", "a/dog, ü"])[np.arange(7) % 2]
    whole = set_of(labels=None, texts=texts)
    registry.write(tmp_path, ["png", "parquet", "webdataset"], whole)
    with open(tmp_path / "png" / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == texts.tolist()
    assert rows[1]["file_name"] == "0001_a_dog/0000001.png"
    for row, image in zip(rows, whole.images, strict=True):
        content = (tmp_path / "png" / row["file_name"]).read_bytes()
        np.testing.assert_array_equal(decoded(content), image)
    rows = read_parquet(tmp_path / "parquet")
    assert [row["text"] for row in rows] == texts.tolist()
    assert read_tars(tmp_path / "webdataset")["0000003.txt"] == "a/dog, ü".encode()


def test_names_of_classes_lead_nowhere_else(tmp_path):
    names = ("../up", "big cat", "a/b")
    registry.write(tmp_path / "in", ["png"], set_of(3, class_names=names))
    folders = {path.name for path in (tmp_path / "in" / "png").iterdir()}
    assert folders == {"0000_up", "big cat", "0002_a_b"}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_images_without_either(tmp_path):
    registry.write(tmp_path, tuple(registry.FORMATS), set_of(labels=None))
    assert set(contents(tmp_path / "png")) == {f"{i:07d}.png" for i in range(7)}
    assert set(read_parquet(tmp_path / "parquet")[0]) == {"image"}
    assert len(read_tars(tmp_path / "webdataset")) == 7


@pytest.mark.parametrize("name", registry.FORMATS)
def test_interrupted_work_goes_on_and_is_never_half_there(name, tmp_path, monkeypatch):
    whole = set_of()
    registry.write(tmp_path / "whole", [name], whole)
    kind, numbers = registry.FORMATS[name], []
    write = kind.write

    def failing(folder, images, part):
        numbers.append(part.number)
        write(folder, images, part)
        if len(numbers) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(kind, "write", failing)
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        registry.write(cut, [name], whole)
    assert not (cut / name).exists()
    assert registry.read_digests(cut) == {}
    registry.write(cut, [name], whole)
    assert numbers == [0, 1, 1, 2]
    registry.write(cut, [name], whole)  # all is there
    assert numbers == [0, 1, 1, 2]
    assert contents(cut) == contents(tmp_path / "whole")
    # Of more images the folder is another.
    registry.write(cut, [name], set_of(9))
    stated = registry.read_digests(cut)[name]
    assert stated["num_images"] == 9
    assert stated["files"] == {
        file: files.sha256(cut / name / file) for file in contents(cut / name)
    }
    assert {path.name for path in cut.iterdir()} == {name, registry.DIGESTS}
    # A file that somebody damaged is made anew.
    damaged = cut / name / next(iter(stated["files"]))
    damaged.write_bytes(b"damaged")
    registry.write(cut, [name], set_of(9))
    assert stated["files"] == registry.read_digests(cut)[name]["files"]
    assert (
        files.sha256(damaged)
        == stated["files"][damaged.relative_to(cut / name).as_posix()]
    )


def test_what_is_asked_for(monkeypatch):
    settings = ml_collections.ConfigDict({"formats": "npz, png,parquet", "png": True})
    assert maker.wanted_formats(settings) == ("png", "parquet")
    settings.formats = ""
    assert maker.wanted_formats(settings) == ("png",)
    with pytest.raises(InputError, match="allowed: npz, png, parquet, webdataset"):
        registry.chosen("npz,jpeg")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"needs pyarrow.*dpdm_jax\[parquet\]"):
        registry.chosen("parquet")


def test_images_that_no_png_holds(tmp_path):
    with pytest.raises(InputError, match="has 2 channels"):
        registry.write(tmp_path, ["webdataset"], set_of(channels=2))
    assert not (tmp_path / "webdataset").exists()
