import json

import pytest

from dpdm_jax.conditions import (
    Labels,
    Tokens,
    Unconditional,
    from_dict,
    num_classes_for,
    to_dict,
)
from dpdm_jax.errors import InputError


@pytest.mark.parametrize(
    ("condition", "stored"),
    [
        (Labels(10), {"num_classes": 10}),
        (Unconditional(), {"num_classes": 0}),
        (
            Tokens(3, 4),
            {
                "num_classes": 0,
                "condition": {"kind": "tokens", "length": 3, "vocabulary": 4},
            },
        ),
        (
            Tokens(3, 4, "bytes", (2, 3)),
            {
                "num_classes": 0,
                "condition": {
                    "kind": "tokens",
                    "length": 3,
                    "vocabulary": 4,
                    "tokenizer": "bytes",
                    "empty": [2, 3],
                },
            },
        ),
    ],
)
def test_stored_form(condition, stored):
    """Classes are a number, as in all that was released before there were others."""
    assert to_dict(condition) == stored
    assert from_dict(json.loads(json.dumps(stored)) | {"other": 1}) == condition


def test_unknown_kind_is_refused():
    with pytest.raises(
        InputError, match=r"condition\.kind is 'sound'; allowed: tokens"
    ):
        from_dict({"num_classes": 0, "condition": {"kind": "sound"}})


def test_who_reads_classes_refuses_others():
    assert num_classes_for(Labels(3), "a network") == 3
    assert num_classes_for(Unconditional(), "a network") == 0
    with pytest.raises(
        InputError,
        match="a network reads class labels and the condition of the data is captions "
        "of 3 tokens 0 to 3; allowed: class labels, or none",
    ):
        num_classes_for(Tokens(3, 4), "a network")
