import zlib

import numpy as np
from reading import images_and_labels, shape_of
from sklearn.datasets import load_digits

from dpdm_jax import data

IMAGES_CRC = 1211344495
LABELS_CRC = 1207874232


def test_splits_partition_the_data_exactly(data_config):
    train = data.load_source(data_config(), "train")
    test = data.load_source(data_config(), "test")
    assert (len(train), len(test)) == (1437, 360)
    assert shape_of(train) == shape_of(test) == (8, 8, 1)
    assert train.condition.num_classes == test.condition.num_classes == 10
    rows = []
    for source in (train, test):
        images, labels = images_and_labels(source)
        rows += [
            im.tobytes() + bytes([k]) for im, k in zip(images, labels, strict=True)
        ]
    stored = load_digits()
    # Halves round up: 255 * 8 / 16 = 127.5 -> 128.
    pixels = np.floor(stored.images * 255 / 16 + 0.5).astype(np.uint8)
    assert pixels.max() == 255
    expected = [
        im.tobytes() + bytes([k]) for im, k in zip(pixels, stored.target, strict=True)
    ]
    assert sorted(rows) == sorted(expected)


def test_split_never_changes(data_config):
    # A changed order would break resuming and every published figure.
    source = data.load_source(data_config(), "train")
    images, labels = images_and_labels(source)
    assert zlib.crc32(images.tobytes()) == IMAGES_CRC
    assert zlib.crc32(labels.astype("<i4").tobytes()) == LABELS_CRC


def test_every_class_is_in_both_splits(data_config):
    for split in ("train", "test"):
        source = data.load_source(data_config(), split)
        counts = np.bincount(images_and_labels(source)[1], minlength=10)
        assert counts.min() >= 0.08 * len(source)


def test_unlabelled(data_config):
    source = data.load_source(data_config(num_classes=0), "train")
    assert source.condition.num_classes == 0
    assert not images_and_labels(source, np.arange(50))[1].any()
