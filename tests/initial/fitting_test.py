import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.initial import fitting


def network(rows):
    """Parameters whose table has these rows: row i holds i alone."""
    table = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 2, axis=1)
    return {"label": {"embedding": table}, "head": np.ones(3, np.float32)}


def rows_of(params):
    return params["label"]["embedding"][:, 0].tolist()


@pytest.mark.parametrize(
    ("found", "own", "expected"),
    [
        (5, 3, [0, 1, 2]),
        (3, 3, [0, 1, 2]),
        (6, 4, [0, 1, 2, 5]),  # the last is the null label's
    ],
)
def test_classes_take_the_first_rows_of_a_larger_table(found, own, expected):
    taken = fitting.fit(network(found), network(own), "first", 3)
    assert rows_of(taken) == expected
    assert taken["head"].tolist() == [1.0] * 3


def test_too_few_rows_and_more_than_asked_for_are_refused():
    with pytest.raises(
        InputError, match=r"label/embedding have 3 rows .*'first'; allowed: at least 4"
    ):
        fitting.fit(network(3), network(4), "first", 3)
    with pytest.raises(InputError, match=r"allowed: \(3, 2\), .*'first', 'random' or"):
        fitting.fit(network(5), network(3), "reuse", 3)
    with pytest.raises(InputError, match=r"allowed: \(5, 2\), .*label_table 'random'"):
        fitting.fit(network(3), network(5), "reuse", 5)


def test_wider_rows_are_refused():
    wide = network(5)
    wide["label"]["embedding"] = np.zeros((5, 4), np.float32)
    with pytest.raises(InputError, match=r"have shape \(3, 4\); allowed: \(3, 2\)"):
        fitting.fit(wide, network(3), "first", 3)
