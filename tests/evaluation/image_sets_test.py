import gzip
import struct

import numpy as np
import PIL.Image
import pytest

from dpdm_jax import data
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import image_sets
from dpdm_jax.evaluation.image_sets import ImageSet

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 1), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def write_idx(folder, prefix, images, labels=None):
    folder.mkdir(exist_ok=True)
    header = struct.pack(">I3I", 0x803, *images.shape[:3])
    content = gzip.compress(header + images.tobytes())
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(content)
    if labels is not None:
        header = struct.pack(">II", 0x801, len(labels))
        content = header + labels.astype(np.uint8).tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(content)


def write_folder(folder, images, names=None):
    for i, image in enumerate(images):
        parent = folder if names is None else folder / names[i]
        parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(image[..., 0]).save(parent / f"{i}.png")


def test_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=PIXELS, labels=LABELS)
    found = image_sets.load(str(path))
    np.testing.assert_array_equal(found.images, PIXELS)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert (found.num_classes, len(found), found.name) == (3, 6, str(path))
    np.savez(path, images=PIXELS[..., 0])
    found = image_sets.load(str(path))
    assert found.labels is None
    assert found.images.shape == PIXELS.shape


def test_splits_of_an_npz_folder(tmp_path):
    np.savez(tmp_path / "test.npz", images=PIXELS[:2])
    assert len(image_sets.load(str(tmp_path))) == 2
    np.savez(tmp_path / "train.npz", images=PIXELS)
    assert len(image_sets.load(str(tmp_path))) == 6
    assert len(image_sets.load(f"{tmp_path}:test")) == 2
    with pytest.raises(InputError, match=r"no split valid; allowed: .*test, train"):
        image_sets.load(f"{tmp_path}:valid")


def test_idx(tmp_path):
    write_idx(tmp_path, "train", PIXELS, LABELS)
    write_idx(tmp_path, "t10k", PIXELS[:2])
    train = image_sets.load(str(tmp_path))
    np.testing.assert_array_equal(train.images, PIXELS)
    np.testing.assert_array_equal(train.labels, LABELS)
    test = image_sets.load(f"{tmp_path}:test")
    np.testing.assert_array_equal(test.images, PIXELS[:2])
    assert test.labels is None


def test_flat_folder(tmp_path):
    write_folder(tmp_path / "flat", PIXELS)
    found = image_sets.load(str(tmp_path / "flat"))
    np.testing.assert_array_equal(found.images, PIXELS)
    assert found.labels is None
    assert found.class_names is None


def test_class_folders_and_splits(tmp_path):
    names = ["cat", "dog", "owl"]
    write_folder(tmp_path / "train", PIXELS, [names[i] for i in LABELS])
    write_folder(tmp_path / "test", PIXELS[:3], names)
    for spec, number in (("", 6), ("/train", 6), (":test", 3), ("/test", 3)):
        found = image_sets.load(str(tmp_path) + spec)
        assert len(found) == number
        assert found.class_names == ("cat", "dog", "owl")
        assert found.num_classes == 3
    np.testing.assert_array_equal(found.labels, [0, 1, 2])
    np.testing.assert_array_equal(found.images, PIXELS[:3])


def test_tfds(monkeypatch):
    asked = []

    def load(settings, config, split):
        asked.append((settings.name, getattr(config, f"{split}_split")))
        return data.ArraySource(PIXELS, LABELS)

    monkeypatch.setattr(image_sets.tfds, "load", load)
    assert image_sets.load("tfds:imagenet_resized/32x32:train[:50%]").num_classes == 3
    image_sets.load("tfds:mnist")
    assert asked == [
        ("imagenet_resized/32x32", "train[:50%]"),
        ("mnist", "train"),
    ]


def test_truncated_png(tmp_path):
    write_folder(tmp_path, PIXELS)
    path = tmp_path / "3.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"3\.png cannot be decoded"):
        image_sets.load(str(tmp_path))


def test_bytes_that_were_divided_come_back(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.savez(tmp_path / "a.npz", images=levels / np.float32(127.5) - np.float32(1))
    found = image_sets.load(str(tmp_path / "a.npz"), float_range="-1,1")
    np.testing.assert_array_equal(found.images, levels)
    cut = image_sets.load(
        str(tmp_path / "a.npz"), float_range="-1,1", rounding="truncate"
    )
    assert np.count_nonzero(cut.images == levels.astype(int) - 1) == 63


@pytest.mark.parametrize(
    ("float_range", "rounding", "values", "levels"),
    [
        ("0,1", "truncate", [0, 0.5, 0.999, 1], [0, 127, 254, 255]),
        ("0,1", "nearest", [0, 0.5, 0.999, 1], [0, 128, 255, 255]),
        ("-1,1", "truncate", [-1, 0, 0.999, 1], [0, 127, 254, 255]),
        ("0,255", "nearest", [0, 17.2, 17.8, 255], [0, 17, 18, 255]),
    ],
)
def test_float_images(tmp_path, float_range, rounding, values, levels):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.array(values, np.float32).reshape(1, 2, 2, 1))
    found = image_sets.load(str(path), float_range=float_range, rounding=rounding)
    np.testing.assert_array_equal(found.images.ravel(), levels)


@pytest.mark.parametrize(
    ("value", "float_range", "message"),
    [
        (
            0.5,
            "",
            "are float32 values; allowed: uint8 in 0..255, or floats whose range",
        ),
        (1.5, "0,1", "a pixel of .* is 1.5; allowed: 0 to 1, as float_range states"),
        (np.nan, "-1,1", "a pixel of .* is nan; allowed: -1 to 1"),
        (0.5, "0,2", "float_range is '0,2'; allowed: 0,1 or -1,1 or 0,255"),
    ],
)
def test_float_images_outside_the_stated_range(tmp_path, value, float_range, message):
    path = tmp_path / "a.npz"
    images = np.zeros((2, 3, 3, 1), np.float32)
    images[1, 2, 0] = value
    np.savez(path, images=images)
    with pytest.raises(InputError, match=message):
        image_sets.load(str(path), float_range=float_range)


@pytest.mark.parametrize("spec", ["", "no/such/place", "no/such/place:test"])
def test_nothing_there(spec):
    with pytest.raises(
        InputError, match=r"is no file or folder; allowed: an .npz file"
    ):
        image_sets.load(spec)


def test_comparable_sets():
    real = ImageSet("real", PIXELS)
    image_sets.check_comparable(real, ImageSet("other", PIXELS[:1]))
    with pytest.raises(InputError, match="other are 5x4x3 and those of real 5x4x1"):
        image_sets.check_comparable(
            real, ImageSet("other", np.repeat(PIXELS, 3, axis=-1))
        )
    with pytest.raises(InputError, match="images of other go up to 1 and the others"):
        image_sets.check_comparable(real, ImageSet("other", PIXELS // 128))
    black_and_white = ImageSet("bits", PIXELS // 128)
    image_sets.check_comparable(black_and_white, black_and_white)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None, "num_classes": 0}, "cnn needs labels and other has none"),
        ({"labels": LABELS % 2}, "other has no image of class 2; allowed"),
        ({"num_classes": 4}, "labels of other go up to 3; allowed: 0 to 2"),
        ({"class_names": ("a", "b", "d")}, "classes of other are a, b, d; allowed"),
    ],
)
def test_labels_that_do_not_fit(changes, message):
    fields = {"labels": LABELS, "num_classes": 3}
    names = ("a", "b", "c") if "class_names" in changes else None
    real = ImageSet("real", PIXELS, **fields, class_names=names)
    image_sets.check_labels(real, real, "cnn")
    with pytest.raises(InputError, match=message):
        image_sets.check_labels(
            real, ImageSet("other", PIXELS, **fields | changes), "cnn"
        )


def test_class_folders_against_numbers():
    folders = ImageSet("folders", PIXELS, LABELS, 3, ("cat", "dog", "owl"))
    image_sets.check_labels(folders, ImageSet("npz", PIXELS, LABELS, 3), "cnn")
    # A missing folder would shift the numbers of all that follow.
    with pytest.raises(InputError, match="numbered by sorted name"):
        image_sets.check_labels(folders, ImageSet("npz", PIXELS, LABELS, 4), "cnn")
