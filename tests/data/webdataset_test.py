"""Shards of WebDataset, made here as its writer makes them."""

import io
import json
import tarfile

import numpy as np
import pytest
from reading import images_and_labels, png

from dpdm_jax import data
from dpdm_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = [2, 0, 1, 2, 0, 1]
NAMES = ("cat", "dog", "eel")


def members_of(rows):
    for row in rows:
        about = {"patient": row // 2, "kind": NAMES[LABELS[row]]}
        yield f"{row}.cls", str(LABELS[row]).encode()
        yield f"{row}.json", json.dumps(about).encode()
        yield f"{row}.png", png(IMAGES[row])
        yield f"{row}.txt", f"image {row}".encode()


def write(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def load(data_config, tmp_path):
    def load(path=tmp_path, split="train", label="cls", **fields):
        config = data_config(
            source="webdataset", path=str(path), webdataset={"label": label}
        )
        config.update(fields)
        return data.load_source(config, split)

    return load


@pytest.fixture
def shards(tmp_path):
    """Of the images 0 to 5, in no order within a shard."""
    for i, rows in enumerate(([2, 0, 1], [3, 5, 4])):
        write(tmp_path / f"train-{i:05d}.tar", members_of(rows))
    return tmp_path


@pytest.mark.parametrize("on_demand", [False, True])
@pytest.mark.parametrize(
    "path", ["", "train-*.tar", "train-{00000..00001}.tar", "train-0000[01].tar"]
)
def test_shards_and_names_are_in_order(shards, load, path, on_demand):
    source = load(shards / path, on_demand=on_demand)
    assert isinstance(source, data.StoredSource) == on_demand
    images, labels = images_and_labels(source)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == LABELS
    chosen = source.examples(np.array([4, 1]))
    np.testing.assert_array_equal(chosen["image"], IMAGES[[4, 1]])


def test_labels_captions_and_groups_may_lie_in_json(shards, load, data_config):
    source = load(shards, label="kind", class_names=NAMES)
    assert images_and_labels(source)[1].tolist() == LABELS
    captioned = load(shards, condition="captions", captions={"column": "txt"})
    assert captioned.spec["condition"].shape == (64,)
    config = data_config(source="webdataset", path=str(shards), group="patient")
    assert data.load_groups(config, load(shards)).owners.tolist() == [0, 0, 1, 1, 2, 2]


def test_splits_are_patterns_or_folders(shards, load):
    write(shards / "val" / "a.tar", members_of([1]))
    assert len(load(shards, split="test", test_split="val")) == 1
    assert len(load(shards, split="test", test_split="train-*1.tar")) == 3
    with pytest.raises(InputError, match=r"has no file test\.tar, test-"):
        load(shards, split="test")
    with pytest.raises(InputError, match="training images without a test split"):
        load(shards / "train-*.tar", split="test")


def test_what_is_not_read_is_counted(tmp_path, load, caplog):
    more = [("0.seg.npy", b"x"), ("0.npy", b"x"), ("1.npy", b"x"), ("._0.png", b"x")]
    write(tmp_path / "train.tar", [*members_of([0, 1]), *more])
    assert len(load()) == 2
    assert "the training shards have 2 .txt, 2 .npy, 1 .seg.npy." in caplog.text


def tar(*members, cut=None, mode="w"):
    def make(folder):
        path = write(folder / "train.tar", members, mode)
        path.write_bytes(path.read_bytes()[:cut])

    return make


IMAGE = ("a.png", png(IMAGES[0]))


@pytest.mark.parametrize(
    ("make", "fields", "message"),
    [
        (tar(IMAGE, cut=600), {}, "cannot be read as a tar file .* undamaged"),
        # Between two members, where tar files need not end.
        (tar(IMAGE, IMAGE, cut=1024), {}, r"its end is missing"),
        (tar(IMAGE, mode="w:gz"), {}, "that is not compressed"),
        (tar(), {}, "has no images; allowed: a .tar file"),
        (tar(("a.txt", b"")), {}, "1 of 1 examples of .* have no image .a."),
        (tar(IMAGE, ("a.jpg", b"")), {}, "several images of 'a'; allowed: one"),
        (tar(IMAGE, ("b.heic", b"")), {}, "1 images of kinds that are not read"),
        (tar(("a.png", b"x")), {}, r"train\.tar: a cannot be decoded"),
        (tar(IMAGE, ("a.cls", b"x")), {}, "a has the label 'x' in 'cls'; allowed: an"),
        (tar(IMAGE, ("a.cls", b"\xff")), {}, r"a\.cls cannot be read .* UTF-8"),
        (tar(IMAGE, ("b.png", IMAGE[1]), ("b.cls", b"1")), {}, "a has no label in"),
        (tar(IMAGE, ("a.cls", b"1")), {}, "go from 1 to 1; allowed: from 0"),
        (tar(IMAGE), {"num_classes": 2}, "no 'cls'; allowed: none, there are images"),
        (tar(IMAGE, ("a.json", b"{")), {"group": "x"}, r"a\.json cannot be read"),
        (tar(IMAGE, ("a.json", b"[]")), {"group": "x"}, "is no JSON object"),
        (
            tar(IMAGE, ("a.json", b'{"b": 1}')),
            {"group": "x", "num_classes": 0},
            "have no 'x'; allowed: b of .json",
        ),
        (tar(IMAGE), {"path": "{}/x-{{0..2}}.tar"}, r"3 missing \(x-0\.tar, x-1"),
        (tar(IMAGE), {"path": "{}/x-{{0..9999999}}.tar"}, "10000000 shards; allowed"),
        (tar(IMAGE), {"path": "{}/x-*.tar"}, "there is no file in"),
        (tar(IMAGE), {"webdataset": {"label": "a/b"}}, "label is 'a/b'; allowed: an"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(
    tmp_path, data_config, make, fields, message
):
    make(tmp_path)
    config = data_config(source="webdataset", path=str(tmp_path))
    config.update(
        {k: v.format(tmp_path) if k == "path" else v for k, v in fields.items()}
    )
    with pytest.raises(InputError, match=message) as error:
        data.load_groups(config, data.load_source(config, "train"))
    assert "\n" not in str(error.value)
