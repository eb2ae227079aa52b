"""Images in Parquet files."""

import builtins

import numpy as np
import pytest
from reading import images_and_labels, png

from dpdm_jax import data
from dpdm_jax.errors import InputError

pyarrow = pytest.importorskip("pyarrow")
pyarrow_parquet = pytest.importorskip("pyarrow.parquet")

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
LABELS = [2, 0, 2]


FILES = [png(image) for image in IMAGES]
STRUCTS = [{"bytes": content, "path": None} for content in FILES]


def write(path, **columns):
    pyarrow_parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.fixture
def load(data_config):
    def load(path, split="train", **fields):
        config = data_config(source="parquet", path=str(path))
        config.update(fields)
        return data.load_source(config, split)

    return load


@pytest.mark.parametrize("stored", [FILES, STRUCTS])
def test_one_file_is_the_training_split(tmp_path, load, stored):
    path = write(tmp_path / "x.parquet", image=stored, label=LABELS)
    source = load(path)
    images, labels = images_and_labels(source)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == LABELS
    assert source.condition.num_classes == 3
    with pytest.raises(InputError, match="without a test split; allowed"):
        load(path, "test")


def test_files_of_a_split_follow_each_other(tmp_path, load):
    for i in (1, 0):
        write(tmp_path / f"train-{i:05d}-of-00002.parquet", image=STRUCTS[i : i + 1])
    write(tmp_path / "val.parquet", image=STRUCTS[2:])
    images, labels = images_and_labels(load(tmp_path))
    np.testing.assert_array_equal(images, IMAGES[:2])
    assert not labels.any()
    images, _ = images_and_labels(load(tmp_path, "test", test_split="val"))
    np.testing.assert_array_equal(images, IMAGES[2:])
    with pytest.raises(InputError, match=r"has no file test\.parquet or test-\*"):
        load(tmp_path, "test")


def test_a_split_is_whole_and_of_one_kind(tmp_path, load):
    shard = "train-{:05d}-of-00002-0a1b.parquet".format
    for folder in (tmp_path / "part" / "data", tmp_path / "mixed"):
        folder.mkdir(parents=True)
        write(folder / shard(1), image=STRUCTS[:1], label=[1])
    with pytest.raises(InputError, match="has 1 of the 2 files that train-00001-of"):
        load(tmp_path / "part")
    write(tmp_path / "mixed" / shard(0), image=STRUCTS[1:], label=["a", "b"])
    with pytest.raises(InputError, match=r"'label' of .* is int64 and that"):
        load(tmp_path / "mixed")
    write(tmp_path / "part" / "data" / shard(0), image=STRUCTS[1:], label=[0, 2])
    assert len(load(tmp_path / "part")) == 3


def test_columns_have_other_names(tmp_path, load):
    path = write(tmp_path / "x.parquet", img=STRUCTS, fine=LABELS)
    names = {"image": "img", "label": "fine"}
    source = load(path, parquet=names, num_classes=5, image_size=3)
    assert source.spec["image"].shape == (3, 3, 3)
    assert source.condition.num_classes == 5


@pytest.mark.parametrize(
    ("columns", "fields", "message"),
    [
        ({"picture": FILES}, {}, "has no column 'image'; allowed: picture"),
        ({"image": ["x"] * 3}, {}, "row 0 of .* has no bytes of an image"),
        ({"image": [*STRUCTS[:2], None]}, {}, "row 2 of .* has no bytes"),
        ({"image": [*FILES[:2], b"x"]}, {}, "row 2 of .* cannot be decoded"),
        ({"image": [*FILES[:2], png(IMAGES[0][:5])]}, {}, "row 2 of .* is 5x6x3 but"),
        ({"image": [png(IMAGES[0][:5])]}, {"image_size": 4}, "row 0 of .* distorted"),
        ({"image": FILES, "label": [0, 1, None]}, {}, "row 2 of .* has the label None"),
        ({"image": FILES, "label": [0, 1, 1.5]}, {}, "row 0 .* allowed: an integer"),
        ({"image": FILES, "label": LABELS}, {"num_classes": 2}, "go up to 2"),
        ({"image": FILES}, {"num_classes": 2}, "has no labels"),
        ({"image": FILES[:0]}, {}, "has no rows"),
        (
            {"image": FILES, "text": ["a", None, ""]},
            {"condition": "captions"},
            "2 of 3 images have no caption in the column 'text' of .*row 1 of",
        ),
        (
            {"image": FILES, "text": [1, 2, 3]},
            {"condition": "captions"},
            "row 0 of .* has the caption '1' in the column 'text' of .*; allowed: a",
        ),
        ({"image": FILES}, {"condition": "captions"}, "has no column 'text'"),
    ],
)
def test_bad_content(tmp_path, load, columns, fields, message):
    path = write(tmp_path / "x.parquet", **columns)
    with pytest.raises(InputError, match=message) as error:
        load(path, **fields)
    assert "\n" not in str(error.value)


def test_a_damaged_file(tmp_path, load):
    path = write(tmp_path / "x.parquet", image=FILES)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"x\.parquet cannot be read as Parquet"):
        load(path)
    with pytest.raises(InputError, match=r"is missing; allowed: a \.parquet file"):
        load(tmp_path / "none")


def test_the_extra_is_named_where_it_is_missing(tmp_path, load, monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("pyarrow"):
            raise ImportError("No module named 'pyarrow'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'dpdm_jax\[parquet\]'"):
        load(tmp_path)
