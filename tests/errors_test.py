"""What of a library's error goes into a sentence."""

import io

import pytest
from PIL import Image

from dpdm_jax.errors import reason


def test_objects_in_memory_are_left_out():
    with pytest.raises(Image.UnidentifiedImageError) as caught:
        Image.open(io.BytesIO(b"no image"))
    said = "UnidentifiedImageError: cannot identify image file"
    assert reason(caught.value) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one. two"), "ValueError: one"),
        (KeyError(), "KeyError"),
        (OSError("a\nb"), "OSError: a"),
    ],
)
def test_kind_and_first_sentence(error, said):
    assert reason(error) == said
