import functools
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.data.random_access import RandomAccessSource
from dpdm_jax.errors import InputError

FORMATS = ("tfrecord", "array_record")


def pixels(number, height, width, channels, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, height, width, channels), np.uint8)


def prepare(folder, name, features, splits, file_format="tfrecord"):
    """Writes a data set that TFDS then finds in ``folder``, without a builder class."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={k: list(enumerate(rows)) for k, rows in splits.items()},
        data_dir=folder,
        file_format=file_format,
        disable_shuffling=True,
    )


def rows(images, labels):
    return [
        {"image": image, "label": int(label)}
        for image, label in zip(images, labels, strict=True)
    ]


def config_for(make, folder, name, **overrides):
    return make(source="tfds", tfds={"name": name}, path=str(folder), **overrides)


TRAIN = pixels(7, 12, 12, 3)
TEST = pixels(3, 12, 12, 3, seed=1)
LABELS = np.array([0, 1, 2, 3, 3, 2, 1])


@pytest.fixture(scope="module", params=FORMATS)
def labelled(request, tmp_path_factory):
    """A prepared data set ``tiny`` with a label, in each file format."""
    folder = tmp_path_factory.mktemp(request.param)
    features = {
        "image": tfds.features.Image(shape=(12, 12, 3)),
        "label": tfds.features.ClassLabel(num_classes=4),
    }
    splits = {"train": rows(TRAIN, LABELS), "test": rows(TEST, LABELS[:3])}
    prepare(folder, "tiny", features, splits, request.param)
    return folder, request.param


@pytest.mark.slow
def test_prepared_data_comes_back(labelled, data_config):
    folder, file_format = labelled
    config = config_for(
        data_config, folder, "tiny", image_size=12, channels=3, num_examples=7
    )
    source = data.load_source(config, "train")
    assert isinstance(source, data.Source)
    assert isinstance(source, RandomAccessSource) == (file_format == "array_record")
    assert (len(source), shape_of(source), source.condition.num_classes) == (
        7,
        (12, 12, 3),
        4,
    )
    images, labels = images_and_labels(source, np.array([6, 0, 3, 3]))
    np.testing.assert_array_equal(images, TRAIN[[6, 0, 3, 3]])
    np.testing.assert_array_equal(labels, LABELS[[6, 0, 3, 3]])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
    images, _ = images_and_labels(data.load_source(config, "test"), np.arange(3))
    np.testing.assert_array_equal(images, TEST)


def test_batches_are_padded(labelled, data_config):
    source = data.load_source(config_for(data_config, labelled[0], "tiny"), "train")
    batch = data.load_batch(source, np.array([4, -1]))
    np.testing.assert_array_equal(batch.examples["image"][0], TRAIN[4])
    np.testing.assert_array_equal(batch.examples["condition"], [3, 0])
    np.testing.assert_array_equal(batch.is_padding, [False, True])


def test_split_expressions(labelled, data_config):
    config = config_for(
        data_config, labelled[0], "tiny", train_split="train[:5]", num_examples=5
    )
    images, _ = images_and_labels(data.load_source(config, "train"), np.arange(5))
    np.testing.assert_array_equal(images, TRAIN[:5])


@pytest.mark.parametrize("file_format", FORMATS)
def test_letters_that_count_from_1_and_lie_on_their_side(
    tmp_path, data_config, file_format
):
    """As EMNIST's: 37 classes are stated of 26, and rows are columns."""
    features = {
        "image": tfds.features.Image(shape=(12, 12, 3)),
        "label": tfds.features.ClassLabel(num_classes=37),
    }
    stored = {"train": rows(TRAIN, LABELS + 23)}
    prepare(tmp_path, "letters", features, stored, file_format)
    config = config_for(data_config, tmp_path, "letters", num_classes=26)
    config.tfds.first_label, config.tfds.transpose = 1, True
    source = data.load_source(config, "train")
    assert source.condition.num_classes == 26
    images, labels = images_and_labels(source, np.arange(7))
    np.testing.assert_array_equal(images, TRAIN.swapaxes(1, 2))
    np.testing.assert_array_equal(labels, LABELS + 22)
    config.num_classes = 25
    with pytest.raises(InputError, match="letters go up to 25; allowed: 0 to 24"):
        data.load_source(config, "train")
    config.num_classes, config.tfds.first_label = 26, 24
    with pytest.raises(InputError, match="letters go down to -1; allowed: integers >="):
        data.load_source(config, "train")


def test_preparation_is_applied(labelled, data_config):
    config = config_for(
        data_config, labelled[0], "tiny", image_size=6, channels=1, resize="box"
    )
    source = data.load_source(config, "train")
    assert shape_of(source) == (6, 6, 1)
    images, _ = images_and_labels(source, np.arange(7))
    prepare_one = data.Preparation("none", 6, "box", 1)
    np.testing.assert_array_equal(images, [prepare_one(image) for image in TRAIN])


def test_labels_can_be_ignored(labelled, data_config):
    config = config_for(data_config, labelled[0], "tiny", num_classes=0)
    source = data.load_source(config, "train")
    assert source.condition.num_classes == 0
    np.testing.assert_array_equal(
        images_and_labels(source, np.arange(7))[1], np.zeros(7)
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_classes": 3}, "go up to 3; allowed: 0 to 2"),
        ({"num_examples": 60_000}, "is 60000 but the training data has 7 images"),
        ({"train_split": "extra"}, "split 'extra' of tiny cannot be read"),
        ({"train_split": "train[:0]"}, "tiny cannot be read"),
        ({"crop": "celeba"}, "image is 12x12x3; allowed: aligned CelebA images"),
        (
            {"tfds": {"name": "no_such_builder"}},
            "name is 'no_such_builder'; allowed: a TFDS",
        ),
        (
            {"tfds": {"name": "imagenet_resized/33x33"}},
            "name is 'imagenet_resized/33x33'; all",
        ),
        (
            {"tfds": {"name": ""}},
            "data.tfds.name is ''; allowed: a TFDS builder such as 'mnist'",
        ),
    ],
)
def test_bad_config_is_refused(labelled, data_config, overrides, message):
    config = config_for(data_config, labelled[0], "tiny")
    config.update(overrides)
    with pytest.raises(InputError, match=message) as caught:
        data.load_source(config, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_of_any_size_without_label(tmp_path, data_config, file_format):
    sizes = ((9, 14), (20, 10), (8, 8))
    images = [pixels(1, *size, 3)[0] for size in sizes]
    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "attributes": {"smiling": np.bool_},
    }
    examples = [{"image": im, "attributes": {"smiling": True}} for im in images]
    prepare(tmp_path, "faces", features, {"train": examples}, file_format)
    config = config_for(
        data_config, tmp_path, "faces", crop="center_square", image_size=8
    )
    source = data.load_source(config, "train")
    assert source.condition.num_classes == 0
    got, labels = images_and_labels(source, np.arange(3))
    prepare_one = data.Preparation("center_square", 8, "lanczos")
    np.testing.assert_array_equal(got, [prepare_one(image) for image in images])
    assert not labels.any()
    config.num_classes = 2
    with pytest.raises(InputError, match="faces has no labels; allowed: 0"):
        data.load_source(config, "train")


@pytest.mark.parametrize("file_format", FORMATS)
def test_images_that_stay_unequal_are_refused(tmp_path, data_config, file_format):
    images = [pixels(1, 9, 14, 3)[0], pixels(1, 20, 10, 3)[0]]
    features = {"image": tfds.features.Image(encoding_format="png")}
    split = [{"image": image} for image in images]
    prepare(tmp_path, "loose", features, {"train": split}, file_format)

    def read():
        source = data.load_source(config_for(data_config, tmp_path, "loose"), "train")
        data.load_batch(source, np.arange(2))

    with pytest.raises(InputError, match="is 20x10x3 but the first one is 9x14x3"):
        read()


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("words", {"text": tfds.features.Text()}, "has no image feature"),
        (
            "stereo",
            {"left": tfds.features.Image(), "right": tfds.features.Image()},
            "has the image features left, right; allowed: one of them",
        ),
        (
            "deep",
            {"image": tfds.features.Image(shape=(4, 4, 1), dtype=np.uint16)},
            "are uint16 with 1 channels; allowed: uint8",
        ),
        (
            "twice",
            {
                "image": tfds.features.Image(),
                "kind": tfds.features.ClassLabel(num_classes=2),
                "place": tfds.features.ClassLabel(num_classes=2),
            },
            "has the label features kind, place; allowed: one of them",
        ),
    ],
)
def test_unfit_features_are_refused(tmp_path, data_config, name, features, message):
    def example(feature):
        if isinstance(feature, tfds.features.Image):
            return np.zeros((4, 4, feature.shape[-1]), feature.np_dtype)
        return "a" if isinstance(feature, tfds.features.Text) else 1

    split = [{key: example(feature) for key, feature in features.items()}]
    prepare(tmp_path, name, features, {"train": split})
    with pytest.raises(InputError, match=message):
        data.load_source(config_for(data_config, tmp_path, name), "train")


def test_several_labels_can_be_ignored(tmp_path, data_config):
    kind = tfds.features.ClassLabel(num_classes=2)
    features = {"image": tfds.features.Image(), "kind": kind, "place": kind}
    split = [{"image": TRAIN[0], "kind": 0, "place": 1}]
    prepare(tmp_path, "twice", features, {"train": split})
    config = config_for(data_config, tmp_path, "twice", num_classes=0)
    assert data.load_source(config, "train").condition.num_classes == 0


def test_a_feature_of_labels_is_chosen(tmp_path, data_config):
    """Of several classes, and of integers that TFDS calls no classes."""
    features = {
        "image": tfds.features.Image(),
        "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        "place": tfds.features.ClassLabel(num_classes=3),
        "age": np.int64,
    }
    split = [
        {"image": image, "kind": i % 2, "place": 2, "age": i}
        for i, image in enumerate(TRAIN)
    ]
    prepare(tmp_path, "many", features, {"train": split}, "array_record")

    def load(label, **fields):
        config = config_for(data_config, tmp_path, "many", **fields)
        config.tfds.label = label
        return data.load_source(config, "train")

    of_kind = load("kind", class_names=("cat", "dog"))
    assert images_and_labels(of_kind, np.arange(7))[1].tolist() == [0, 1] * 3 + [0]
    assert load("place", class_names=("a", "b", "c")).condition.num_classes == 3
    ages = load("age", num_classes=7)
    assert images_and_labels(ages, np.arange(7))[1].tolist() == list(range(7))
    for label, fields, message in (
        ("kind", {"class_names": ("dog", "cat")}, "cat, dog; allowed: those names"),
        ("age", {}, "'age' of .* are integers, whose number of classes"),
        ("image", {}, "label is 'image'; allowed .*: age, kind, place, with"),
        ("", {}, "one of them by data.tfds.label, or one called 'label'"),
    ):
        with pytest.raises(InputError, match=message):
            load(label, **fields)


def test_integers_are_no_labels_unless_classes_are_stated(tmp_path, data_config):
    features = {"image": tfds.features.Image(), "label": np.int32, "age": np.int32}
    split = [{"image": TRAIN[0], "label": 3, "age": 1}]
    prepare(tmp_path, "plain", features, {"train": split})
    load = functools.partial(config_for, data_config, tmp_path, "plain")
    with pytest.raises(InputError, match=r"'label' of .* are integers, whose"):
        data.load_source(load(), "train")
    with pytest.raises(InputError, match="go up to 3; allowed: 0 to 2"):
        data.load_source(load(num_classes=3), "train")
    assert data.load_source(load(num_classes=4), "train").condition.num_classes == 4
    assert data.load_source(load(num_classes=0), "train").condition.num_classes == 0


@pytest.mark.parametrize("whole_records", [False, True])
def test_cut_file_is_refused(tmp_path, data_config, whole_records):
    features = {"image": tfds.features.Image(shape=(12, 12, 3))}
    prepare(tmp_path, "cut", features, {"train": [{"image": im} for im in TRAIN]})
    (shard,) = tmp_path.rglob("*.tfrecord-*")
    content = shard.read_bytes()
    # A record is its length in 8 bytes, a checksum in 4, the data, a checksum in 4.
    first = 8 + 4 + int.from_bytes(content[:8], "little") + 4
    shard.write_bytes(content[: first if whole_records else -30])
    with pytest.raises(InputError, match="split 'train' of cut cannot be read"):
        data.load_source(config_for(data_config, tmp_path, "cut"), "train")


def test_absent_data_says_what_to_do(tmp_path, data_config, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no network.\nTry again later.")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(InputError, match=r"set data\.path .*no network") as caught:
        data.load_source(config_for(data_config, tmp_path, "mnist"), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "overrides", "shape", "num_classes"),
    [
        ("mnist", {}, (28, 28, 1), 10),
        ("fashion_mnist", {}, (28, 28, 1), 10),
        ("cifar10", {}, (32, 32, 3), 10),
        ("celeb_a", {"crop": "celeba", "image_size": 32}, (32, 32, 3), 0),
        ("celeb_a", {"crop": "celeba", "image_size": 64}, (64, 64, 3), 0),
        (
            "downsampled_imagenet/32x32",
            {"crop": "center_square", "image_size": 32},
            (32, 32, 3),
            0,
        ),
        ("imagenet_resized/32x32", {}, (32, 32, 3), 1000),
    ],
)
def test_builders_of_the_paper(
    tmp_path, data_config, name, overrides, shape, num_classes
):
    # The features are those of the real builder, the pixels random: TFDS's own mock.
    config = config_for(data_config, tmp_path, name, **overrides)
    with tfds.testing.mock_data(num_examples=5):
        source = data.load_source(config, "train")
        assert (shape_of(source), source.condition.num_classes) == (shape, num_classes)
        batch = data.load_batch(source, np.array([4, 1, -1]))
    assert batch.examples["image"].shape == (3, *shape)
    assert batch.examples["image"][:2].std() > 0.05


@pytest.mark.parametrize("missing", ["tensorflow", "tensorflow_datasets"])
def test_a_missing_extra_is_named(missing, data_config, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    config = data_config(source="tfds", tfds={"name": "mnist"})
    with pytest.raises(InputError, match=r"source is 'tfds'.*dpdm_jax\[tfds\]") as e:
        data.load_source(config, "train")
    assert missing in str(e.value)
