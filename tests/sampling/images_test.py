import os

import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels

from dpdm_jax import data
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.sampling import images

GREY = 208


def _pixels(values):
    return np.asarray(values, np.float32).reshape(1, 1, -1, 1)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        # Of -3, -1, -0.5, 0, 0.2, 0.996, 1, 3 the levels before rounding are
        # 0, 0, 63.75, 127.5, 153, 254.49, 255, 255.
        ("truncate", [0, 0, 63, 127, 153, 254, 255, 255]),
        ("nearest", [0, 0, 64, 128, 153, 254, 255, 255]),
    ],
)
def test_to_uint8_values(rounding, expected):
    floats = _pixels([-3, -1, -0.5, 0, 0.2000001, 0.996, 1, 3])
    result = images.to_uint8(floats, rounding)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result.ravel(), expected)


def test_truncation_is_the_default():
    np.testing.assert_array_equal(images.to_uint8(_pixels([0.0])).ravel(), [127])


def test_nearest_inverts_the_training_transform():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(
        images.to_uint8(pixels.to_float(levels), "nearest"), levels
    )


def test_truncation_is_half_a_level_darker():
    floats = np.random.default_rng(0).uniform(-1, 1, (1, 200, 200, 1))
    means = [images.to_uint8(floats, r).mean() for r in ("nearest", "truncate")]
    # The fraction that is dropped is uniform on [0, 1), standard error 0.002.
    assert means[0] - means[1] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses_what_is_not_finite(broken):
    floats = np.zeros((3, 2, 2, 1))
    floats[1, 0, 0, 0] = broken
    with pytest.raises(InputError, match=f"1 of 3 .* is {broken}; allowed: finite"):
        images.to_uint8(floats)


def test_to_uint8_refuses_other_rounding():
    with pytest.raises(InputError, match="'floor'; allowed: truncate, nearest"):
        images.to_uint8(_pixels([0]), "floor")


def test_class_grid_layout():
    # Six images of 1x2 pixels, each of its own grey; class 2 has one image only, and
    # label 7 has no row.
    tiles = np.arange(1, 7, dtype=np.uint8).reshape(6, 1, 1, 1).repeat(2, axis=2)
    labels = np.array([1, 0, 1, 2, 0, 7])
    picture = images.class_grid(tiles, labels, 3, 2, scale=1)
    blank, g = 10 * [GREY], GREY
    assert picture[..., 0].tolist() == [
        blank,
        blank,
        [g, g, 2, 2, g, g, 5, 5, g, g],
        blank,
        blank,
        [g, g, 1, 1, g, g, 3, 3, g, g],
        blank,
        blank,
        [g, g, 4, 4, g, g, g, g, g, g],
        blank,
        blank,
    ]


def test_class_grid_takes_the_first_images_of_a_class():
    tiles = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    picture = images.class_grid(tiles, np.zeros(5, int), 1, 3, scale=1)
    assert picture[2, 2::3, 0].tolist() == [0, 1, 2]


def test_grid_is_nearly_square_and_keeps_colours():
    tiles = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3)).astype(np.uint8)
    picture = images.grid(tiles, scale=1)
    # Three columns, two rows, the last place blank.
    assert picture.shape == (2 * 6 + 2, 3 * 6 + 2, 3)
    np.testing.assert_array_equal(picture[8:12, 8:12], tiles[4])
    assert (picture[8:12, 14:18] == GREY).all()


@pytest.mark.parametrize(
    ("side", "scale"), [(1, 48), (8, 6), (28, 2), (32, 2), (64, 1), (200, 1)]
)
def test_small_images_are_enlarged(side, scale):
    picture = images.grid(np.zeros((1, side, side, 1), np.uint8))
    assert picture.shape == (side * scale + 4, side * scale + 4, 1)


def test_enlarge_repeats_pixels():
    image = np.array([[[1], [2]]], np.uint8)
    assert images.enlarge(image, 2)[..., 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: images.grid(x[:0]), "0 images"),
        (lambda x: images.grid(x / 255), "float64"),
        (lambda x: images.grid(x[0]), "shape"),
        (lambda x: images.grid(x, columns=0), "columns is 0"),
        (lambda x: images.grid(x, scale=0), "scale is 0"),
        (lambda x: images.class_grid(x, np.zeros(3, int), 2, 2), r"\(3,\)"),
        (lambda x: images.class_grid(x, np.zeros(4, int), 0, 2), "num_classes is 0"),
        (lambda x: images.class_grid(x, np.zeros(4, int), 2, 0), "per_class is 0"),
    ],
)
def test_grids_refuse(make, message):
    with pytest.raises(InputError, match=message):
        make(np.zeros((4, 8, 8, 1), np.uint8))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_the_pixels(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    images.write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == ("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(np.asarray(stored), image.squeeze())


def test_png_refuses_two_channels(tmp_path):
    with pytest.raises(InputError, match="2 channels; allowed: 1 or 3"):
        images.write_png(tmp_path / "a.png", np.zeros((5, 7, 2), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_classes", [4, 0])
def test_npz_is_read_by_the_data_source(tmp_path, data_config, num_classes):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (9, 6, 5, 3)).astype(np.uint8)
    labels = np.arange(9) % 4
    images.write_npz(tmp_path / "a.npz", pixels, labels if num_classes else None)
    with np.load(tmp_path / "a.npz") as archive:
        assert sorted(archive) == (["images", "labels"] if num_classes else ["images"])
    config = data_config(source="npz", path=str(tmp_path / "a.npz"))
    source = data.load_source(config, "train")
    assert source.condition.num_classes == num_classes
    found, found_labels = images_and_labels(source, np.arange(9))
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(found_labels, labels if num_classes else 0 * labels)


def test_npz_labels_are_int32(tmp_path):
    images.write_npz(tmp_path / "a.npz", np.zeros((2, 1, 1, 1), np.uint8), [3, 1])
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["labels"].dtype == np.int32
        assert archive["labels"].tolist() == [3, 1]


@pytest.mark.parametrize("labels", [[0, 1, 2], [0.0, 1.0]])
def test_npz_refuses_labels(tmp_path, labels):
    with pytest.raises(InputError, match=r"allowed: integers, one per image, \(2,\)"):
        images.write_npz(tmp_path / "a.npz", np.zeros((2, 1, 1, 1), np.uint8), labels)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path, level: images.write_png(path, level[0]), "a.png"),
        (lambda path, level: images.write_npz(path, level, None), "a.npz"),
    ],
)
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, write, name):
    path = tmp_path / name
    write(path, np.zeros((1, 2, 2, 1), np.uint8))
    old = path.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write(path, np.ones((1, 2, 2, 1), np.uint8))
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == [name]
    write(path, np.ones((1, 2, 2, 1), np.uint8))
    assert path.read_bytes() != old
    assert [p.name for p in tmp_path.iterdir()] == [name]
