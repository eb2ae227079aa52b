"""A digest of all of the data: any change shows, wherever it is, in every source."""

import hashlib
import json
import struct

import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.data import binding
from dpdm_jax.data.random_access import RandomAccessSource
from dpdm_jax.errors import InputError

_COUNT = 9
_CLASSES = 3


def originals():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_COUNT, 6, 5, 1), np.uint8)
    return images, np.repeat(np.arange(_CLASSES), _COUNT // _CLASSES)


def array_source(images, labels, **_):
    return data.ArraySource(images, labels, _CLASSES)


def npz_source(images, labels, folder, make_config):
    np.savez(folder / "train.npz", images=images, labels=labels)
    return loaded(make_config, "npz", folder)


def idx_source(images, labels, folder, make_config):
    for name, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        content = header + array.astype(np.uint8).tobytes()
        (folder / f"train-{name}-ubyte").write_bytes(content)
    return loaded(make_config, "idx", folder)


def folder_source(images, labels, folder, make_config):
    for k in range(_CLASSES):
        (folder / str(k)).mkdir()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image[..., 0]).save(folder / str(label) / f"{i}.png")
    return loaded(make_config, "image_folder", folder)


class Records(list):
    """What TFDS gives for files with random access."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def records_of(images, labels):
    return Records({"i": x, "l": y} for x, y in zip(images, labels, strict=True))


def tfds_source(images, labels, **_):
    records = records_of(images, labels)
    return RandomAccessSource(records, ("i", "l"), data.Preparation(), _CLASSES)


def loaded(make_config, name, folder):
    config = make_config(source=name, path=str(folder), num_classes=_CLASSES)
    return data.load_source(config, "train")


def pixel_of(example):
    def change(images, labels):
        images[example, 2, 3, 0] ^= 1
        return images, labels

    change.__name__ = f"a pixel of image {example}"
    return change


def a_label(images, labels):
    labels[4] = 2
    return images, labels


def two_labels_swapped(images, labels):
    labels[[2, 3]] = labels[[3, 2]]
    return images, labels


def two_images_swapped(images, labels):
    images[[0, 1]] = images[[1, 0]]
    return images, labels


def one_less(images, labels):
    return images[:-1], labels[:-1]


def one_more(images, labels):
    return np.append(images, images[:1], axis=0), np.append(labels, labels[-1:])


CHANGES = [
    *(pixel_of(example) for example in (0, _COUNT // 2, _COUNT - 1)),
    a_label,
    two_labels_swapped,
    two_images_swapped,
    one_less,
    one_more,
]
SOURCES = [array_source, npz_source, idx_source, folder_source, tfds_source]


@pytest.mark.parametrize("make", SOURCES)
def test_any_change_shows(make, tmp_path, data_config, monkeypatch):
    monkeypatch.setattr(binding, "_PIECE", 70)  # bytes: two images at once

    def digest_of(name, images, labels):
        folder = tmp_path / name
        folder.mkdir()
        source = make(images, labels, folder=folder, make_config=data_config)
        return data.bind(source)[1]

    first = digest_of("first", *originals())
    assert len(first) == 32
    assert digest_of("again", *originals()) == first
    found = {first}
    for change in CHANGES:
        found.add(digest_of(change.__name__, *change(*originals())))
    assert len(found) == 1 + len(CHANGES)


def test_all_sources_and_pieces_have_one_digest(tmp_path, data_config, monkeypatch):
    """So that data may move from one form to another."""
    digests = set()
    for piece, make in zip((1, 30, 100, 2**24, 31), SOURCES, strict=True):
        monkeypatch.setattr(binding, "_PIECE", piece)
        folder = tmp_path / str(piece)
        folder.mkdir()
        source = make(*originals(), folder=folder, make_config=data_config)
        digests.add(data.bind(source)[1])
    assert len(digests) == 1


def test_digest_is_the_one_that_checkpoints_hold():
    """Else runs that were begun before would be refused."""
    images, labels = originals()
    whole = hashlib.sha256(json.dumps([_COUNT, [6, 5, 1], _CLASSES]).encode())
    for image, label in zip(images, labels, strict=True):
        one = struct.pack("<i", label) + image.tobytes()
        whole.update(hashlib.sha256(one).digest())
    source = data.ArraySource(images, labels, _CLASSES)
    assert data.bind(source)[1] == whole.digest()


def test_shape_and_number_of_classes_count():
    images, labels = originals()
    made = {
        data.bind(data.ArraySource(x, y, classes))[1]
        for x, y, classes in (
            (images, labels, 3),
            (images, labels, 4),
            (images, 0 * labels, 3),
            (images, None, 0),
            (images.reshape(_COUNT, 5, 6, 1), labels, 3),
            (images.reshape(_COUNT // 3, 6, 15, 1), labels[:3], 3),
        )
    }
    assert len(made) == 6


def test_digits_have_a_digest(data_config):
    source = data.load_source(data_config(), "train")
    bound, digest = data.bind(source)
    assert bound is source
    images, labels = images_and_labels(source)
    assert data.bind(data.ArraySource(images, labels, 10))[1] == digest


@pytest.mark.parametrize("name", ["i", "l"])
def test_what_is_read_on_demand_is_compared_at_each_reading(name):
    """Files may change after the start."""
    records = records_of(*originals())
    source = RandomAccessSource(records, ("i", "l"), data.Preparation(), _CLASSES)
    bound, _ = data.bind(source)
    assert isinstance(bound, data.Source)
    assert (len(bound), shape_of(bound), bound.condition.num_classes) == (
        _COUNT,
        (6, 5, 1),
        3,
    )
    indices = np.array([8, 0, 3])
    for made, wanted in zip(
        images_and_labels(bound, indices), originals(), strict=True
    ):
        np.testing.assert_array_equal(made, wanted[indices])
    assert [len(x) for x in images_and_labels(bound, np.array([], int))] == [0, 0]
    records[3] = records[3] | {name: records[8 if name == "l" else 4][name]}
    images_and_labels(bound, np.array([8, 0]))
    with pytest.raises(InputError, match="changed while the run reads it") as e:
        images_and_labels(bound, indices)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", [InputError, OSError, ValueError])
def test_no_error_of_a_source_names_what_a_step_has_read(kind):
    """Which examples a step has chosen is secret, and who is missing is among them."""

    class Lost(data.ArraySource):
        is_lost = False

        def examples(self, indices):
            if self.is_lost:
                raise kind("patient_017/scan_3.png cannot be decoded.")
            return super().examples(indices)

    source = Lost(*originals(), _CLASSES)
    bound = binding._BoundSource(source, binding._digest_each(source))
    assert len(images_and_labels(bound, np.array([3]))[0]) == 1
    source.is_lost = True
    with pytest.raises(InputError, match="changed while the run reads it") as e:
        bound.examples(np.array([3]))
    raised = e.value
    while raised is not None:
        assert "patient" not in str(raised)
        raised = raised.__cause__ or raised.__context__
