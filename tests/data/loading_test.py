import numpy as np
import pytest

from dpdm_jax import data
from dpdm_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


class WrongLabels(data.ArraySource):
    """A user's own source that returns labels it did not announce."""

    def examples(self, indices):
        labels = indices.astype(np.int32) - 2
        return super().examples(indices) | {"condition": labels}


def test_batch_has_examples_in_place_and_zeros_as_padding():
    source = data.ArraySource(IMAGES, LABELS)
    batch = data.load_batch(source, np.array([3, -1, 0, -1, -1]))
    np.testing.assert_array_equal(batch.is_padding, [False, True, False, True, True])
    np.testing.assert_array_equal(batch.examples["image"][0], IMAGES[3])
    np.testing.assert_array_equal(batch.examples["image"][2], IMAGES[0])
    assert not batch.examples["image"][batch.is_padding].any()
    np.testing.assert_array_equal(batch.examples["condition"], [2, 0, 0, 0, 0])
    types = (
        batch.examples["image"].dtype,
        batch.examples["condition"].dtype,
        batch.is_padding.dtype,
    )
    assert types == (np.uint8, np.int32, np.bool_)


@pytest.mark.parametrize("size", [0, 3])
def test_batch_without_examples(size):
    batch = data.load_batch(data.ArraySource(IMAGES), np.full(size, -1))
    assert batch.examples["image"].shape == (size, 4, 5, 3)
    assert batch.is_padding.all()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 6], "index is 6; allowed: 0 to 5, or -1"),
        ([-2], "index is -2; allowed"),
        ([[0, 1]], r"shape \(1, 2\); allowed: integers of shape"),
        ([0.0, 1.0], "float64 .* allowed: integers"),
        ([True, False], "bool .* allowed: integers"),
    ],
)
def test_bad_indices_are_refused(indices, message):
    with pytest.raises(InputError, match=message):
        data.load_batch(data.ArraySource(IMAGES), np.array(indices))


@pytest.mark.parametrize(
    ("index", "num_classes", "message"),
    [
        (5, 3, "a label is 3; allowed: 0 to 2"),
        (1, 3, "a label is -1; allowed: 0 to 2"),
        (3, 0, "a label is 1; allowed: 0 to 0"),
    ],
)
def test_labels_out_of_range_are_refused(index, num_classes, message):
    source = WrongLabels(IMAGES, LABELS, num_classes)
    with pytest.raises(InputError, match=message):
        data.load_batch(source, np.array([2, index]))
