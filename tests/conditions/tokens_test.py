import numpy as np
import pytest

from dpdm_jax.conditions import Tokens
from dpdm_jax.errors import InputError

TOKENS = Tokens(length=3, vocabulary=4)


def test_values_have_the_shape_that_is_stated():
    for values in (
        TOKENS.in_turn(5),
        TOKENS.choose("uniform", 5, 0),
        TOKENS.choose("balanced", 5, 0),
        np.stack([TOKENS.null]),
    ):
        assert values.shape[1:] == TOKENS.spec.shape
        assert values.dtype == TOKENS.spec.dtype
        TOKENS.check(values)
    assert TOKENS.in_turn(5)[:, 0].tolist() == [1, 2, 3, 1, 2]
    assert not TOKENS.null.any()


def test_the_null_is_the_empty_caption():
    tokens = Tokens(length=3, vocabulary=4, empty=[2, 3])
    assert tokens.null.tolist() == [2, 3, 0]
    assert tokens.empty == (2, 3)
    tokens.check(np.stack([tokens.null]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": 0}, "length of captions is 0; allowed: an integer >= 1"),
        ({"vocabulary": 1}, "vocabulary is 1; allowed: an integer >= 2"),
        ({"empty": (2, 3, 3, 3)}, "length of captions is 3; allowed: at least 4"),
    ],
)
def test_settings_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        Tokens(**{"length": 3, "vocabulary": 4, **fields})


def test_random_captions_grow_by_appending():
    many = TOKENS.choose("uniform", 300, 1)
    assert set(many.ravel()) == {0, 1, 2, 3}
    np.testing.assert_array_equal(many[:7], TOKENS.choose("uniform", 7, 1))
    assert (many != TOKENS.choose("uniform", 300, 2)).any()


def test_given_captions(tmp_path):
    path = tmp_path / "captions.npy"
    np.save(path, np.array([[1, 2, 3], [3, 0, 0]]))
    found = TOKENS.choose(str(path), 2, 0)
    assert found.tolist() == [[1, 2, 3], [3, 0, 0]]
    assert found.dtype == np.int32
    assert TOKENS.choose([[1, 2, 3]], 1, 0).tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([[1, 2]], r"shape \(1, 2\); allowed .* rows of 3 tokens 0 to 3"),
        ([[1, 2, 4]], "a token is 4; allowed: 0 to 3"),
        ([[1, 2, -1]], "a token is -1; allowed: 0 to 3"),
        ([[0.5, 1, 1]], "float64"),
        ("3", "'3', which cannot be read .* allowed: uniform, balanced"),
    ],
)
def test_other_captions_are_refused(wanted, message):
    with pytest.raises(InputError, match=message):
        TOKENS.choose(wanted, 1, 0)
