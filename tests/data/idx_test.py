import gzip

import idx_files
import numpy as np
import pytest
from idx_files import encode
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.data import idx
from dpdm_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4), np.uint8)
LABELS = np.array([0, 1, 2, 3, 2, 1, 0], np.uint8)


def write(folder, images=IMAGES, labels=LABELS, **options):
    idx_files.write(folder, images, labels, **options)


@pytest.mark.parametrize("zipped", [False, True])
def test_round_trip(tmp_path, data_config, zipped):
    write(tmp_path, zipped=zipped)
    write(tmp_path, IMAGES[:3], LABELS[:3], prefix="t10k", zipped=zipped)
    config = data_config(source="idx", path=str(tmp_path), num_examples=7)
    train = data.load_source(config, "train")
    test = data.load_source(config, "test")
    assert (shape_of(train), train.condition.num_classes) == ((5, 4, 1), 4)
    images, labels = images_and_labels(train, np.arange(7))
    np.testing.assert_array_equal(images[..., 0], IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert len(test) == 3


def test_labels_are_not_needed_when_unlabelled(tmp_path, data_config):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    config = data_config(source="idx", path=str(tmp_path), num_classes=0)
    assert data.load_source(config, "train").condition.num_classes == 0


GOOD = encode(IMAGES)
ZIPPED = gzip.compress(GOOD)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", r"starts with bytes \(none\); allowed: 00000803"),
        ("a", b"\x89PNG\r\n", "starts with bytes 89504e47; allowed: 00000803"),
        ("a", GOOD[:10], "allowed: 00000803"),
        (
            "a",
            encode(LABELS),
            "starts with bytes 00000801; allowed: 00000803",
        ),
        ("a", encode(IMAGES, type_code=9), "starts with bytes 00000903"),
        ("a", GOOD[:-1], "holds 139 values; allowed: exactly the 140"),
        ("a", GOOD + b"\0", "holds more than 140 values; allowed: exactly the 140"),
        ("a.gz", ZIPPED[:-20], r"a\.gz cannot be read"),
        ("a.gz", GOOD, r"a\.gz cannot be read"),
        ("a.gz", ZIPPED[:12] + b"\xff" * 9 + ZIPPED[21:], r"a\.gz cannot be read"),
    ],
)
def test_damaged_file_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        idx.read_idx(path, num_dims=3)


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("", {}, "path is ''; allowed: a folder with IDX files"),
        ("nothing", {}, "nothing', which is missing; allowed: a folder"),
        ("file", {}, "file', a file; allowed: a folder"),
        ("empty", {}, "has no file train-images-idx3-ubyte or train-images-idx3"),
        ("good", {"train_split": "extra"}, "has no file extra-images-idx3-ubyte"),
        ("good", {"num_classes": 3}, "go up to 3; allowed: 0 to 2"),
        ("good", {"image_size": 28}, "5x4x1 and would be distorted"),
        ("good", {"num_examples": 8}, "is 8 but the training data has 7 images"),
        ("short", {}, r"labels of .*short \(train\) have shape \(6,\)"),
    ],
)
def test_bad_folder_is_refused(tmp_path, data_config, path, overrides, message):
    for name in ("empty", "good", "short"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    write(tmp_path / "good")
    write(tmp_path / "short", labels=LABELS[:6])
    config = data_config(source="idx", path=path and str(tmp_path / path), **overrides)
    with pytest.raises(InputError, match=message):
        data.load_source(config, "train")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_data(real_data, data_config, name):
    config = data_config(
        source="idx",
        path=str(real_data / name),
        image_size=28,
        channels=1,
        num_classes=10,
        num_examples=60_000,
    )
    train = data.load_source(config, "train")
    test = data.load_source(config, "test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert shape_of(train) == shape_of(test) == (28, 28, 1)
    _, labels = images_and_labels(train, np.arange(60_000))
    if name == "fashion_mnist":
        np.testing.assert_array_equal(np.bincount(labels), np.full(10, 6000))
    else:
        # The first ten labels and the mean pixel of MNIST as commonly published.
        np.testing.assert_array_equal(labels[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
        mean = np.mean(
            [
                images_and_labels(train, np.arange(i, i + 6000))[0].mean() / 255
                for i in range(0, 60_000, 6000)
            ]
        )
        assert mean == pytest.approx(0.1307, abs=1e-4)
