import numpy as np
import pytest

from dpdm_jax.conditions import Labels, Unconditional, of_classes
from dpdm_jax.errors import InputError


def test_uniform_labels_are_uniform_and_grow_by_appending():
    labels = of_classes(10).choose("uniform", 20_000, 1)
    # Chi-square with 9 degrees of freedom stays below 33.7 but for 1 seed in 10,000.
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 2000) ** 2 / 2000).sum() < 33.7
    np.testing.assert_array_equal(
        labels[:777], of_classes(10).choose("uniform", 777, 1)
    )
    assert (labels != of_classes(10).choose("uniform", 20_000, 2)).any()


def test_balanced_one_class_and_unlabelled():
    assert of_classes(3).choose("balanced", 5, 0).tolist() == [0, 1, 2, 0, 1]
    assert of_classes(3).choose("2", 3, 0).tolist() == [2, 2, 2]
    assert of_classes(0).choose("uniform", 3, 0).tolist() == [0, 0, 0]


def test_values_in_turn_and_null():
    assert Labels(3).in_turn(5).tolist() == [0, 1, 2, 0, 1]
    assert Unconditional().in_turn(2).tolist() == [0, 0]
    assert (Labels(3).null, Unconditional().null) == (3, None)
    assert of_classes(3) == Labels(3)
    assert of_classes(0) == Unconditional()


def test_given_labels(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.array([2, 0, 1]))
    assert of_classes(3).choose(str(path), 3, 0).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), "class 3"),
        (np.array([0, -1]), "class -1"),
        (np.array([0, 1, 2]), "shape"),
        (np.array([0.0, 1.0]), "float64"),
        (np.array([{}]), "cannot be read"),
    ],
)
def test_bad_label_files(tmp_path, labels, message):
    path = tmp_path / "labels.npy"
    np.save(path, labels, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        of_classes(3).choose(str(path), 2, 0)


def test_labels_themselves():
    labels = Labels(3).choose([2, 0, 1], 3, 0)
    assert labels.tolist() == [2, 0, 1]
    assert labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 3], "class 3"), ([0], r"shape \(1,\)"), ([0.0, 1.0], "float64")],
)
def test_bad_labels_themselves(labels, message):
    with pytest.raises(InputError, match=message):
        of_classes(3).choose(labels, 2, 0)


@pytest.mark.parametrize("spec", ["10", "-1", "cats", "", "missing.npy"])
def test_bad_specs_name_what_is_allowed(spec):
    with pytest.raises(InputError, match="balanced"):
        of_classes(10).choose(spec, 2, 0)
