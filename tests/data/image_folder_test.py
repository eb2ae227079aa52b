import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.data import image_folder
from dpdm_jax.errors import InputError


def pixels(height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(image).save(path, **options)


def config_for(make, path, **overrides):
    return make(source="image_folder", path=str(path), **overrides)


def test_classes_and_files_are_sorted_by_name(tmp_path, data_config):
    stored = {
        "cat/2.png": pixels(6, 6, seed=1),
        "ape/z.png": pixels(6, 6, seed=2),
        "cat/10.PNG": pixels(6, 6, seed=3),
        "ape/b.png": pixels(6, 6, seed=4),
    }
    for name, image in stored.items():
        write(tmp_path / name, image)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    write(tmp_path / "ape" / ".hidden.png", pixels(9, 9))
    source = data.load_source(config_for(data_config, tmp_path), "train")
    assert (len(source), source.condition.num_classes, shape_of(source)) == (
        4,
        2,
        (6, 6, 3),
    )
    images, labels = images_and_labels(source, np.arange(4))
    order = ["ape/b.png", "ape/z.png", "cat/10.PNG", "cat/2.png"]
    np.testing.assert_array_equal(images, [stored[name] for name in order])
    np.testing.assert_array_equal(labels, [0, 0, 1, 1])


def test_splits_share_the_class_numbers_of_train(tmp_path, data_config):
    for name in ("train/a/0.png", "train/b/0.png", "val/b/0.png"):
        write(tmp_path / name, pixels(4, 4))
    config = config_for(data_config, tmp_path, test_split="val", num_classes=2)
    assert len(data.load_source(config, "train")) == 2
    test = data.load_source(config, "test")
    np.testing.assert_array_equal(images_and_labels(test, np.array([0]))[1], [1])


def test_classes_are_in_natural_order_and_have_folders_of_their_own(
    tmp_path, data_config
):
    """As labels 0 to 11 would have it, whatever lies how deep."""
    for label in range(12):
        deep = "x/y" if label % 2 else "."
        write(tmp_path / str(label) / deep / "0.png", pixels(4, 4, seed=label))
    source = data.load_source(config_for(data_config, tmp_path), "train")
    images, labels = images_and_labels(source, np.arange(12))
    assert labels.tolist() == list(range(12))
    np.testing.assert_array_equal(images, [pixels(4, 4, seed=i) for i in range(12)])


def test_names_with_and_without_numbers_are_ordered():
    names = ["b", "a10", "a2b", "10", "2", "a", "02"]
    expected = ["02", "2", "10", "a", "a2b", "a10", "b"]
    assert sorted(names, key=image_folder.natural_order) == expected


def test_an_empty_class_folder_is_refused(tmp_path, data_config):
    """Those behind it would have other numbers."""
    for name in ("train/a/0.png", "train/c/0.png", "test/c/0.png"):
        write(tmp_path / name, pixels(4, 4))
    for split in ("train", "test"):
        (tmp_path / split / "b").mkdir()
    with pytest.raises(InputError, match=r"train/b has no images; allowed: at least"):
        data.load_source(config_for(data_config, tmp_path), "train")
    (tmp_path / "train" / "b").rmdir()
    test = data.load_source(config_for(data_config, tmp_path), "test")
    assert images_and_labels(test, np.arange(1))[1].tolist() == [1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_images_of_16_bits_are_read_by_a_stated_range(
    tmp_path, data_config, suffix
):
    stored = np.array([[0, 1000], [3000, 65535]], np.uint16)
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}")
    config = config_for(data_config, tmp_path)
    config.image_folder.value_range = (1000, 4000)
    images, _ = images_and_labels(data.load_source(config, "train"), np.arange(1))
    assert images[0, ..., 0].tolist() == [[0, 0], [170, 255]]


def test_a_range_is_two_numbers_in_order(tmp_path, data_config):
    config = config_for(data_config, tmp_path)
    config.image_folder.value_range = (9, 9)
    with pytest.raises(InputError, match=r"value_range is \(9, 9\); allowed: \(LOW, "):
        data.load_source(config, "train")


def test_flat_folder_is_unlabelled(tmp_path, data_config):
    for i in range(3):
        write(tmp_path / f"{i}.png", pixels(4, 4, 1, seed=i))
    source = data.load_source(config_for(data_config, tmp_path), "train")
    assert (source.condition.num_classes, shape_of(source)) == (0, (4, 4, 1))


def test_any_size_and_mode_is_cropped_and_resized(tmp_path, data_config):
    wide, tall, grey = pixels(20, 31), pixels(40, 17), pixels(16, 16, 1)
    write(tmp_path / "a" / "0_wide.png", wide)
    write(tmp_path / "a" / "1_tall.png", tall)
    write(tmp_path / "a" / "2_grey.png", grey)
    config = config_for(
        data_config,
        tmp_path,
        crop="center_square",
        image_size=16,
        resize="bicubic",
        channels=3,
    )
    images, _ = images_and_labels(data.load_source(config, "train"), np.arange(3))

    def expected(image, box):
        cropped = Image.fromarray(image).crop(box)
        return np.asarray(cropped.resize((16, 16), Image.Resampling.BICUBIC))

    np.testing.assert_array_equal(images[0], expected(wide, (5, 0, 25, 20)))
    np.testing.assert_array_equal(images[1], expected(tall, (0, 11, 17, 28)))
    np.testing.assert_array_equal(images[2], np.repeat(grey, 3, axis=-1))


def test_rgb_files_of_grey_images_become_grey(tmp_path, data_config):
    grey = pixels(8, 8, 1)
    write(tmp_path / "0.png", np.repeat(grey, 3, axis=-1))
    config = config_for(data_config, tmp_path, channels=1)
    images, _ = images_and_labels(data.load_source(config, "train"), np.array([0]))
    np.testing.assert_array_equal(images[0], grey)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("1", "png", 1),
        ("L", "png", 1),
        ("LA", "png", 1),
        ("L", "jpg", 1),
        ("P", "png", 3),
        ("RGBA", "png", 3),
        ("RGB", "jpeg", 3),
        ("RGB", "jfif", 3),
        ("RGB", "webp", 3),
        ("RGB", "TIFF", 3),
        ("L", "tif", 1),
        ("L", "bmp", 1),
        ("P", "gif", 3),
        ("CMYK", "jpg", 3),
    ],
)
def test_modes(tmp_path, mode, suffix, channels):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels(9, 7)).convert(mode).save(path)
    image = image_folder.decode_image(path)
    assert (image.shape, image.dtype) == ((9, 7, channels), np.uint8)


def test_exif_orientation_is_applied(tmp_path):
    stored = pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    write(tmp_path / "turned.png", stored, exif=exif)
    image = image_folder.decode_image(tmp_path / "turned.png")
    np.testing.assert_array_equal(image, np.rot90(stored, -1))


def deep_png(image):
    """A PNG file of 16 bits a channel in colour, which Pillow does not write."""

    height, width, _ = image.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = image.astype(">u2").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body
        content += struct.pack(">I", zlib.crc32(name + body))
    return content


def damaged_folder(root, kind):
    """Fills a folder that is wrong in one way."""
    write(root / "good.png", pixels(6, 6))
    if kind == "truncated":
        whole = (root / "good.png").read_bytes()
        (root / "later.png").write_bytes(whole[: len(whole) // 2])
    elif kind == "truncated_jpeg":
        write(root / "later.jpg", pixels(60, 60))
        whole = (root / "later.jpg").read_bytes()
        (root / "later.jpg").write_bytes(whole[: len(whole) // 2])
    elif kind == "corrupt":
        whole = bytearray((root / "good.png").read_bytes())
        whole[60] ^= 255
        (root / "later.png").write_bytes(bytes(whole))
    elif kind == "text":
        (root / "later.png").write_text("no image")
    elif kind == "zero_bytes":
        (root / "later.png").touch()
    elif kind == "other_format":
        Image.fromarray(pixels(6, 6)).save(root / "later.png", format="PPM")
    elif kind == "sixteen_bits":
        deep = np.full((6, 6), 40_000, np.uint16)
        Image.fromarray(deep).save(root / "later.png")
    elif kind == "animated":
        frames = [Image.fromarray(pixels(6, 6, seed=i)) for i in (0, 1)]
        frames[0].save(root / "later.gif", save_all=True, append_images=frames[1:])
    elif kind == "sixteen_bits_in_colour":
        (root / "later.png").write_bytes(deep_png(np.full((6, 6, 3), 40_000)))
    elif kind == "other_size":
        write(root / "later.png", pixels(7, 6))
    elif kind == "other_channels":
        write(root / "later.png", pixels(6, 6, 1))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", r"later\.png cannot be decoded"),
        ("truncated_jpeg", r"later\.jpg cannot be decoded"),
        ("corrupt", r"later\.png cannot be decoded"),
        ("text", r"later\.png cannot be decoded"),
        ("zero_bytes", r"later\.png cannot be decoded"),
        ("other_format", r"later\.png cannot be decoded"),
        ("sixteen_bits", r"later\.png has pixels of 16 bits; allowed: 8 bits per ch"),
        ("animated", r"later\.gif has 2 images; allowed: one image a file"),
        ("sixteen_bits_in_colour", r"later\.png has 16 bits a channel in .*'RGB'"),
        ("other_size", r"later\.png is 7x6x3 but .*good\.png is 6x6x3; allowed"),
        ("other_channels", r"later\.png is 6x6x1 but .*good\.png is 6x6x3; allowed"),
    ],
)
def test_bad_image_is_named(tmp_path, data_config, kind, message):
    damaged_folder(tmp_path, kind)
    with pytest.raises(InputError, match=message):
        data.load_source(config_for(data_config, tmp_path), "train")


@pytest.mark.parametrize(
    ("files", "split", "overrides", "message"),
    [
        ([], "train", {}, "has no images; allowed: a folder of .png"),
        (["a.ppm"], "train", {}, r"has 1 images of kinds that are not read \(a\.ppm\)"),
        (["a/b/c.png", "a/d.tga"], "train", {}, r"/a has 1 images of kinds .*\(d\.tga"),
        (["a/b.png", "train/a/c.png"], "test", {}, "has no folder test"),
        (["a.png", "b/c.png"], "train", {}, "both in itself and in sub-folders"),
        (["a.png"], "test", {}, "has no folder test; allowed: a folder with train"),
        (["test/a.png"], "train", {}, "has a folder test but no train"),
        (["train/a.png", "test/b/c.png"], "test", {}, "one has class folders and"),
        (["train/a/c.png", "test/b/c.png"], "test", {}, "class 'b', which .*: a"),
        (["a/c.png", "b/c.png"], "train", {"num_classes": 1}, "go up to 1"),
        (["a.png"], "train", {"num_classes": 2}, "has no labels; allowed: 0"),
        (["a.png"], "train", {"image_size": 4}, r"a\.png: .*4x6x3 and would be dist"),
        (["a.png"], "train", {"crop": "celeba"}, r"a\.png: data.crop is 'celeba'"),
        (["a.png"], "train", {"num_examples": 2}, "is 2 but .* has 1 images"),
    ],
)
def test_bad_folder_is_refused(tmp_path, data_config, files, split, overrides, message):
    for name in files:
        write(tmp_path / name, pixels(4, 6))
    with pytest.raises(InputError, match=message):
        data.load_source(config_for(data_config, tmp_path, **overrides), split)


def test_missing_folder_is_refused(tmp_path, data_config):
    config = config_for(data_config, tmp_path / "nothing")
    with pytest.raises(InputError, match="nothing', which is missing; allowed: a fold"):
        data.load_source(config, "train")


def test_stated_names_number_the_classes(tmp_path, data_config):
    """In the order stated; a class may be without images, or without a folder."""
    for name in ("train/dog/a.png", "train/cat/b.png", "test/dog/c.png"):
        write(tmp_path / name, pixels(4, 4))
    (tmp_path / "train" / "bird").mkdir()
    names = ("dog", "bird", "cat", "fish")

    def load(split, **fields):
        source = data.load_source(config_for(data_config, tmp_path, **fields), split)
        return source.condition.num_classes, source.conditions.tolist()

    assert load("train", class_names=names) == (4, [2, 0])
    assert load("test", class_names=names) == (4, [0])
    assert load("train", class_names=names, num_classes=0) == (0, [0, 0])
    for fields, message in (
        ({"class_names": names[:3], "num_classes": 4}, "3 names .* for 4 classes"),
        ({"class_names": ("dog", "bird")}, "class 'cat', which is neither in data.cl"),
        ({"class_names": ("dog", "dog")}, "has 'dog' again"),
        ({"class_names": ("a/b",)}, "name in data.class_names is 'a/b'; allowed: up"),
        ({}, "bird has no images; allowed: at least one"),
    ):
        with pytest.raises(InputError, match=message):
            load("train", **fields)


def test_labels_of_a_file_begin_at_0(tmp_path, data_config):
    for i in (1, 2):
        write(tmp_path / f"{i}.png", pixels(4, 4))
    labels = {"labels": [["1.png", 1], ["2.png", 2]]}
    (tmp_path / "dataset.json").write_text(json.dumps(labels))
    with pytest.raises(InputError, match="go from 1 to 2; allowed: from 0, or"):
        data.load_source(config_for(data_config, tmp_path), "train")
    config = config_for(data_config, tmp_path, class_names=("none", "one", "two"))
    assert data.load_source(config, "train").conditions.tolist() == [1, 2]
