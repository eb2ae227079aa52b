"""Images that are made in parts and read like an array."""

import numpy as np
import pytest

from dpdm_jax.conditions import of_classes
from dpdm_jax.sampling import parts
from dpdm_jax.sampling.maker import Asked, Maker


class Counting:
    """Makes blank images whose first byte is their index, and remembers which."""

    def __init__(self):
        self.made = []

    def __call__(self, key, params, indices, conditions):
        self.made += indices.tolist()
        images = np.full((len(indices), 2, 3, 1), -1, np.float32)
        images[:, 0, 0, 0] = indices / 127.5 - 1
        return images


@pytest.fixture
def opened(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_SIZE", 10)

    def open_parts(total=45):
        generate = Counting()
        asked = Asked((2, 3, 1), of_classes(3), np.arange(total) % 3)
        maker = Maker(asked, {}, generate, None, None, batch_size=4, rounding="nearest")
        return parts.Parts(tmp_path / "parts", maker), generate

    return open_parts


def test_images_are_made_once_in_whole_parts(opened):
    stored, generate = opened()
    stored.make(12)
    assert generate.made == list(range(20))
    stored.make(12)
    stored.make(45)
    assert generate.made == list(range(45))
    again, generate = opened()
    again.make(45)
    assert generate.made == []


def test_parts_that_are_missing_or_damaged_are_made(opened, tmp_path):
    stored, _ = opened()
    stored.make(45)
    files = sorted((tmp_path / "parts").iterdir())
    assert len(files) == 5
    files[1].unlink()
    files[3].write_bytes(files[3].read_bytes()[:-20])
    again, generate = opened()
    again.make(45)
    assert generate.made == [*range(10, 20), *range(30, 40)]


@pytest.mark.parametrize("indices", [[0], [31, 2, 2, 9], range(32), []])
def test_reads_like_an_array(opened, indices):
    stored, _ = opened()
    stored.make(45)
    images = stored.images(11, 32)
    assert (len(images), images.shape, images.dtype) == (32, (32, 2, 3, 1), np.uint8)
    found = images[np.array(indices, int)]
    assert found.dtype == np.uint8
    assert found.shape == (len(indices), 2, 3, 1)
    assert found[:, 0, 0, 0].tolist() == [11 + i for i in indices]
    assert not found[:, 1].any()
