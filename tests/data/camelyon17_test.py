"""A small folder in WILDS's layout, and all that can be wrong with one."""

import csv

import numpy as np
import pytest
from PIL import Image
from reading import images_and_labels, shape_of

from dpdm_jax import data
from dpdm_jax.data import camelyon17
from dpdm_jax.errors import InputError

# Patient, node, x, y, tumor, slide, center, split: in the table hospitals 1 and 2 are
# in split 0 or 1, as the others.
ROWS = [
    ("004", 4, 3328, 21792, 1, 0, 0, 0),
    ("004", 4, 3200, 22272, 0, 0, 0, 1),
    ("042", 3, 96, 32, 0, 23, 2, 0),
    ("046", 3, 64, 64, 1, 30, 1, 1),
    ("096", 0, 33760, 10016, 0, 49, 4, 0),
    ("004", 4, 3328, 96, 1, 0, 3, 0),
]
COLUMNS = (
    *("patient", "node", "x_coord", "y_coord"),
    *("tumor", "slide", "center", "split"),
)
OF_SPLIT = {"train": [0, 4, 5], "id_val": [1], "val": [3], "test": [2]}


def pixels(i, side=96):
    rng = np.random.default_rng(i)
    return rng.integers(0, 256, (side, side, 3), np.uint8)


def write_table(folder, rows, columns=COLUMNS):
    with (folder / "metadata.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("", *columns))
        table.writerows((i, *row) for i, row in enumerate(rows))


def path_of(folder, row):
    name = f"patient_{row[0]}_node_{row[1]}"
    return folder / "patches" / name / f"patch_{name}_x_{row[2]}_y_{row[3]}.png"


def write_patch(folder, i, side=96):
    path = path_of(folder, ROWS[i])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(i, side)).convert("RGBA").save(path)


@pytest.fixture
def folder(tmp_path):
    write_table(tmp_path, ROWS)
    for i in range(len(ROWS)):
        write_patch(tmp_path, i)
    return tmp_path


@pytest.fixture
def load(folder, data_config):
    def load(split="train", **overrides):
        fields = {"source": "camelyon17", "path": str(folder)} | overrides
        config = data_config(**fields)
        return data.load_source(config, split)

    return load


@pytest.mark.parametrize("split", OF_SPLIT)
def test_splits_are_those_of_wilds(load, split):
    source = load("test", test_split=split)
    assert isinstance(source, data.Source)
    assert (shape_of(source), source.condition.num_classes) == ((96, 96, 3), 2)
    wanted = OF_SPLIT[split]
    images, labels = images_and_labels(source, np.arange(len(source)))
    np.testing.assert_array_equal(images, [pixels(i) for i in wanted])
    np.testing.assert_array_equal(labels, [ROWS[i][4] for i in wanted])
    assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def test_examples_come_in_the_order_asked_for(load):
    images, labels = images_and_labels(load(), np.array([2, 0, 2]))
    np.testing.assert_array_equal(images, [pixels(i) for i in (5, 0, 5)])
    np.testing.assert_array_equal(labels, [1, 1, 1])


def test_the_whole_patch_is_resized(load):
    images, _ = images_and_labels(load(image_size=32, resize="box"), np.array([0]))
    blocks = pixels(0).reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(images[0] - blocks).max() < 1  # rounded twice


def test_or_its_middle_is_kept(load):
    source = load(image_size=32, camelyon17={"center": 32})
    images, _ = images_and_labels(source, np.array([0]))
    np.testing.assert_array_equal(images[0], pixels(0)[32:64, 32:64])


def test_labels_can_be_ignored(load):
    source = load(num_classes=0)
    assert source.condition.num_classes == 0
    assert not images_and_labels(source, np.arange(3))[1].any()


def test_patients_are_known(folder):
    table = camelyon17.read_table(folder / "metadata.csv", "train")
    assert table.patients == ["004", "096", "004"]
    assert len(table) == 3


def test_patches_are_read_as_they_are_asked_for(load, folder):
    source = load()
    path_of(folder, ROWS[4]).unlink()
    source.examples(np.array([0, 2]))
    with pytest.raises(InputError, match=r"x_33760_y_10016\.png is missing; allowed"):
        source.examples(np.array([1]))


def test_a_source_is_bound_to_its_patches(load, folder):
    source, _ = data.bind(load())
    Image.fromarray(pixels(7)).save(path_of(folder, ROWS[4]))
    with pytest.raises(InputError, match="training data was changed"):
        source.examples(np.array([1]))


def edited(column, value):
    place = COLUMNS.index(column)
    rows = [list(row) for row in ROWS]
    rows[1][place] = value
    return lambda folder: write_table(folder, rows)


def without(column):
    place = COLUMNS.index(column)
    rows = [row[:place] + row[place + 1 :] for row in ROWS]
    columns = [name for name in COLUMNS if name != column]
    return lambda folder: write_table(folder, rows, columns)


def text(content):
    return lambda folder: (folder / "metadata.csv").write_bytes(content)


def cut(folder):
    path = path_of(folder, ROWS[0])
    path.write_bytes(path.read_bytes()[:999])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "metadata.csv").unlink(), r"metadata\.csv is missing; .*WILDS"),
        (text(b""), "has no column patient; allowed: the columns patient, node"),
        (text(b"patient,\xff"), r"metadata\.csv cannot be read \(UnicodeDecodeError"),
        *((without(name), f"no column {name}") for name in COLUMNS if name != "slide"),
        (edited("tumor", 2), r"the tumor of row 2 of .* is 2; allowed: 0, 1"),
        (edited("tumor", "yes"), "tumor of row 2 of .* is 'yes'; allowed: an integer"),
        (edited("split", 4), r"the split of row 2 of .* is 4; allowed: 0, 1, 2, 3"),
        (edited("center", ""), "the center of row 2 of .* is ''; allowed: an integer"),
        (edited("x_coord", 1.5), r"the x_coord of row 2 of .* is '1\.5'"),
        (lambda f: write_table(f, ROWS[1:4]), "lists no patches of the split 'train'"),
        (lambda f: path_of(f, ROWS[0]).unlink(), r"y_21792\.png is missing"),
        (cut, r"y_21792\.png cannot be decoded"),
        (lambda f: write_patch(f, 0, side=20), r"y_21792\.png: .* 20x20x3; .* 32x32"),
    ],
)
def test_a_damaged_folder_gets_a_sentence(folder, load, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        load(camelyon17={"center": 32})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"path": ""}, r"data\.path is ''; allowed: WILDS's folder camelyon17_v1\.0"),
        ({"path": "nowhere"}, "which is missing; allowed: WILDS's folder"),
        ({"train_split": "ood"}, "is 'ood'; allowed: train, id_val, test, val"),
        ({"num_classes": 1}, "go up to 1; allowed: 0 to 0"),
        ({"num_examples": 4}, "is 4 but the training data has 3 images"),
        ({"camelyon17": {"center": 97}}, "center is 97; allowed: an integer <= 96"),
        ({"camelyon17": {"center": -1}}, "center is -1; allowed: an integer >= 0"),
    ],
)
def test_bad_fields_get_a_sentence(load, overrides, message):
    with pytest.raises(InputError, match=message):
        load(**overrides)


def test_patches_of_several_sizes_want_one(load, folder):
    write_patch(folder, 4, side=64)
    with pytest.raises(InputError, match=r"64x64x3 but the first one is 96x96x3"):
        load().examples(np.arange(3))
