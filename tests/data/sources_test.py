import subprocess
import sys

import numpy as np
import pytest
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


def test_array_source_returns_what_it_was_given():
    source = data.ArraySource(IMAGES, LABELS)
    assert isinstance(source, data.Source)
    assert (len(source), shape_of(source), source.condition.num_classes) == (
        6,
        (4, 5, 3),
        3,
    )
    images, labels = images_and_labels(source, np.array([5, 2, 2]))
    np.testing.assert_array_equal(images, IMAGES[[5, 2, 2]])
    np.testing.assert_array_equal(labels, [0, 2, 2])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "requested", "num_classes"),
    [(LABELS, -1, 3), (LABELS, 3, 3), (LABELS, 9, 9), (None, -1, 0), (None, 0, 0)],
)
def test_number_of_classes(labels, requested, num_classes):
    source = data.ArraySource(IMAGES, labels, requested)
    assert source.condition.num_classes == num_classes


def test_zero_classes_hides_the_labels():
    source = data.ArraySource(IMAGES, LABELS, num_classes=0)
    assert source.condition.num_classes == 0
    np.testing.assert_array_equal(
        images_and_labels(source, np.arange(6))[1], np.zeros(6)
    )


FLOATS = IMAGES.astype(np.float32)
WITH_NAN = np.where(IMAGES > 200, np.float32(np.nan), FLOATS)


@pytest.mark.parametrize(
    ("images", "labels", "num_classes", "message"),
    [
        (FLOATS, LABELS, -1, "float32 values; allowed: uint8"),
        (WITH_NAN, LABELS, -1, "float32 values, some of them NaN; allowed: uint8"),
        (IMAGES.astype(np.int32), LABELS, -1, "int32 values; allowed: uint8"),
        (IMAGES[0], LABELS, -1, r"shape \(4, 5, 3\); allowed: \(number, height"),
        (IMAGES[..., :2], LABELS, -1, "allowed: .* with 1 or 3 channels"),
        (IMAGES[:0], LABELS[:0], -1, "allowed: at least one image"),
        (IMAGES, LABELS[:5], -1, r"shape \(5,\); allowed: one integer per image"),
        (IMAGES, LABELS * 1.0, -1, "float64 values; allowed: integers"),
        (IMAGES, LABELS - 1, -1, "go down to -1; allowed: integers >= 0"),
        (IMAGES, LABELS, 2, "go up to 2; allowed: 0 to 1"),
        (IMAGES, None, 2, "has no labels; allowed: 0"),
    ],
)
def test_array_source_refuses(images, labels, num_classes, message):
    with pytest.raises(InputError, match=message):
        data.ArraySource(images, labels, num_classes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"source": "mnist"},
            "source is 'mnist'; allowed: digits, tfds, idx, image_folder, image_zip",
        ),
        ({"crop": "middle"}, "crop is 'middle'; allowed: none, center_square, celeba"),
        ({"resize": "nearest"}, "resize is 'nearest'; allowed: lanczos, bicubic"),
        ({"channels": 4}, "channels is 4; allowed: 0, 1, 3"),
        ({"image_size": -8}, "image_size is -8; allowed: an integer >= 0"),
        ({"num_classes": -2}, "num_classes is -2; allowed: an integer >= -1"),
        ({"num_classes": 5}, "go up to 9; allowed: 0 to 4"),
        ({"num_examples": 1797}, "is 1797 but the training data has 1437 images"),
        ({"crop": "celeba"}, "crop is 'celeba' but the image is 8x8x1"),
        ({"train_split": ""}, "train_split is ''; allowed: the name of a split"),
        ({"train_split": "all"}, "train_split is 'all'; allowed: train, test"),
    ],
)
def test_load_source_refuses(data_config, overrides, message):
    with pytest.raises(InputError, match=message):
        data.load_source(data_config(**overrides), "train")


def test_arrays_are_resized_and_converted_as_files_are(data_config):
    stored, labels = images_and_labels(
        data.load_source(data_config(), "train"), np.arange(3)
    )
    source = data.load_source(data_config(image_size=4, channels=3), "train")
    assert shape_of(source) == (4, 4, 3)
    assert source.condition.num_classes == 10
    assert len(source) == 1437
    images, same_labels = images_and_labels(source, np.arange(3))
    np.testing.assert_array_equal(same_labels, labels)
    for image, original in zip(images, stored, strict=True):
        np.testing.assert_array_equal(
            image, data.resize(np.repeat(original, 3, axis=-1), 4, "lanczos")
        )


def test_load_source_refuses_another_split(data_config):
    with pytest.raises(InputError, match="split is 'valid'; allowed: train, test"):
        data.load_source(data_config(), "valid")


def test_num_examples_is_of_the_training_split_alone(data_config):
    config = data_config(num_examples=1437)
    assert len(data.load_source(config, "train")) == 1437
    assert len(data.load_source(config, "test")) == 360


def test_a_command_reads_each_split_once(data_config):
    config = data_config(num_classes=10)
    with data.loaded_once():
        train = data.load_source(config, "train")
        with data.loaded_once():  # of other data, for a while
            assert data.load_source(config, "train") is not train
        again = config.copy_and_resolve_references()
        assert data.load_source(again, "train") is train
        assert data.load_source(config, "test") is not train
        again.num_classes = 0
        assert data.load_source(again, "train").condition.num_classes == 0
    assert data.load_source(config, "train") is not train
    with data.loaded_once(uses=2):
        train = data.load_source(config, "train")
        assert data.load_source(config, "train") is train
        assert data.load_source(config, "train") is not train  # it was let go


@pytest.mark.slow
def test_import_is_light():
    code = (
        "import sys, dpdm_jax.data;"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'sklearn')"
        " if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]"
