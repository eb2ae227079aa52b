import numpy as np
import pytest
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 4, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("images", [GREY, GREY[..., None], COLOUR])
@pytest.mark.parametrize("compressed", [False, True])
def test_single_file_is_the_train_split(tmp_path, data_config, images, compressed):
    path = tmp_path / "data.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, images=images, labels=LABELS)
    config = data_config(source="npz", path=str(path))
    source = data.load_source(config, "train")
    assert source.condition.num_classes == 3
    got, labels = images_and_labels(source, np.arange(6))
    np.testing.assert_array_equal(got, images.reshape(got.shape))
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(InputError, match="without a test split; allowed: a folder"):
        data.load_source(config, "test")


def test_folder_has_both_splits_and_labels_are_optional(tmp_path, data_config):
    np.savez(tmp_path / "train.npz", images=COLOUR)
    np.savez(tmp_path / "held_out.npz", images=COLOUR[:2])
    config = data_config(source="npz", path=str(tmp_path), test_split="held_out")
    train = data.load_source(config, "train")
    assert (len(train), shape_of(train), train.condition.num_classes) == (
        6,
        (4, 5, 3),
        0,
    )
    assert len(data.load_source(config, "test")) == 2


@pytest.mark.parametrize(
    ("arrays", "overrides", "message"),
    [
        ({"x": GREY, "y": LABELS}, {}, "holds x, y; allowed: images, and labels"),
        ({}, {}, "holds nothing; allowed: images"),
        ({"images": GREY / 255}, {}, "float64 values; allowed: uint8"),
        (
            {"images": np.full((2, 4, 4), np.nan)},
            {},
            "float64 values, some of them NaN",
        ),
        ({"images": GREY[0]}, {}, r"shape \(4, 5\); allowed"),
        ({"images": GREY, "labels": LABELS[:2]}, {}, "allowed: one integer per image"),
        ({"images": GREY, "labels": -LABELS}, {}, "go down to -2"),
        ({"images": GREY, "labels": LABELS}, {"num_classes": 2}, "go up to 2"),
        ({"images": GREY}, {"num_classes": 2}, "has no labels; allowed: 0"),
        ({"images": GREY}, {"image_size": 4}, "4x5x1 and would be distorted"),
        ({"images": np.array([{}])}, {}, "cannot be read as an .npz archive"),
    ],
)
def test_bad_content_is_refused(tmp_path, data_config, arrays, overrides, message):
    np.savez(tmp_path / "train.npz", **arrays)
    config = data_config(source="npz", path=str(tmp_path), **overrides)
    with pytest.raises(InputError, match=message):
        data.load_source(config, "train")


def test_bad_path_is_refused(tmp_path, data_config):
    np.savez(tmp_path / "good.npz", images=COLOUR, labels=LABELS)
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("images")
    np.save(tmp_path / "array.npy", COLOUR)
    for path, message in [
        ("", "path is ''; allowed: an .npz file"),
        (tmp_path / "none.npz", "is missing; allowed: an .npz file"),
        (tmp_path, "train.npz is missing; data.path allows: an .npz file"),
        (tmp_path / "cut.npz", "cut.npz cannot be read as an .npz archive"),
        (tmp_path / "text.npz", "text.npz cannot be read as an .npz archive"),
        (tmp_path / "array.npy", "array.npy cannot be read as an .npz archive"),
    ]:
        with pytest.raises(InputError, match=message):
            data.load_source(data_config(source="npz", path=str(path)), "train")
