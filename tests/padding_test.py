import jax
import numpy as np
import pytest

from dpdm_jax.padding import PADDING, batch_indices, blank_examples, pad_indices


def test_indices_are_filled_up():
    assert pad_indices(np.array([5, 2]), 3).tolist() == [5, 2, PADDING]
    assert pad_indices(np.array([], int), 2).tolist() == [PADDING, PADDING]


@pytest.mark.parametrize(("size", "batch_size"), [(300, 128), (256, 128), (20, 128)])
def test_batches_hold_every_example_once(size, batch_size):
    order = np.random.default_rng(0).permutation(size)
    batches = batch_indices(order, batch_size)
    assert batches.shape == (-(-size // batch_size), batch_size)
    np.testing.assert_array_equal(batches.ravel()[:size], order)
    assert (batches.ravel()[size:] == -1).all()


def test_blank_examples_have_the_shapes_and_dtypes_of_the_others():
    spec = {
        "image": jax.ShapeDtypeStruct((2, 3, 1), np.uint8),
        "condition": (jax.ShapeDtypeStruct((), np.int32),),
    }
    blank = blank_examples(spec, 4)
    assert blank["image"].shape == (4, 2, 3, 1)
    assert blank["image"].dtype == np.uint8
    assert blank["condition"][0].tolist() == [0] * 4
