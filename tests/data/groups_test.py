"""Whose images are, in every source that can say it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from dpdm_jax import data, planning
from dpdm_jax.data.groups import Groups, complete_groups
from dpdm_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
NAMES = [f"{letter}.png" for letter in "abcde"]
# One person's images are not beside each other, and do not show one thing.
PATIENTS = ["042", "7", "042", "b 1", "7"]
LABELS = [0, 0, 1, 1, 0]


def write_images(folder):
    folder.mkdir(exist_ok=True)
    for name, image in zip(NAMES, IMAGES, strict=True):
        Image.fromarray(image).save(folder / name)


def with_csv(folder, patients=PATIENTS):
    """With other columns, other orders, and blanks that mean nothing."""
    write_images(folder)
    rows = zip(NAMES, patients, strict=True)
    with (folder / "metadata.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("scanner", "patient", "file_name"))
        table.writerows(("s", f" {who} ", name) for name, who in reversed(list(rows)))
    return "image_folder"


def with_jsonl(folder, patients=PATIENTS):
    """Where integers are no texts."""
    write_images(folder)
    values = [int(who) if who == "7" else who for who in patients]
    lines = [
        json.dumps({"file_name": name, "patient": who, "text": 3})
        for name, who in zip(NAMES, values, strict=True)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return "image_folder"


def with_npz(folder, patients=PATIENTS):
    np.savez(folder / "train.npz", images=IMAGES, patient=np.array(patients))
    return "npz"


def with_parquet(folder, patients=PATIENTS):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_images(folder / "files")
    content = [{"bytes": (folder / "files" / n).read_bytes()} for n in NAMES]
    table = pyarrow.table({"image": content, "label": LABELS, "patient": patients})
    for i, part in enumerate((table.slice(0, 2), table.slice(2))):
        parquet.write_table(part, folder / f"train-{i:05d}-of-00002.parquet")
    return "parquet"


SOURCES = (with_csv, with_jsonl, with_npz, with_parquet)


@pytest.fixture
def load(tmp_path, data_config):
    def load(write, *patients, **fields):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        source = write(folder, *patients)
        config = data_config(
            source=source, path=str(folder), group="patient", num_classes=0
        )
        config.update(fields)
        images = data.load_source(config, "train")
        return images, data.load_groups(config, images)

    return load


@pytest.mark.parametrize("write", SOURCES)
def test_groups_are_those_of_the_column(load, write):
    source, groups = load(write)
    assert len(source) == 5
    assert groups.names == ("042", "7", "b 1")  # as images are first theirs
    assert groups.owners.tolist() == [0, 1, 0, 2, 1]
    assert groups.sizes.tolist() == [2, 2, 1]
    assert [groups.members(i).tolist() for i in range(3)] == [[0, 2], [1, 4], [3]]
    np.testing.assert_array_equal(groups.shares, [0.5, 0.5, 0.5, 1, 0.5])
    problem = planning.problem_of(source, groups)
    assert problem.num_examples == 3


def test_labels_belong_to_images_not_to_people(load):
    source, groups = load(with_parquet, num_classes=2)
    labels = source.examples(np.arange(5))["condition"]
    assert labels.tolist() == LABELS
    assert set(labels[groups.members(0)]) == {0, 1}


def test_patients_of_camelyon17(tmp_path, data_config):
    rows = [("004", 4, 0), ("017", 1, 1), ("004", 2, 2)]
    lines = ["patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for patient, node, x in rows:
        name = f"patient_{patient}_node_{node}"
        path = tmp_path / "patches" / name / f"patch_{name}_x_{x}_y_0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(path)
        lines.append(f"{patient},{node},{x},0,1,0,0,0")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    config = data_config(source="camelyon17", path=str(tmp_path), group="patient")
    source = data.load_source(config, "train")
    assert data.load_groups(config, source).names == ("004", "017")


def test_all_sources_have_one_digest_and_any_change_shows(load):
    """Whose an image is is as much a part of the data as the image."""
    digests = {data.bind(*load(write))[1] for write in SOURCES}
    assert len(digests) == 1
    changes = (
        ["42", "7", "42", "b 1", "7"],  # a name
        ["042", "7", "7", "b 1", "042"],  # two images changed hands
        ["042", "7", "042", "7", "7"],  # two people became one
        ["042", "7", "new", "b 1", "7"],  # and one two
    )
    digests |= {data.bind(*load(with_npz, patients))[1] for patients in changes}
    source, _ = load(with_npz)
    digests.add(data.bind(source)[1])
    assert len(digests) == 2 + len(changes)


@pytest.mark.parametrize("write", SOURCES)
def test_a_person_is_one_however_unicode_spells_the_name(load, write):
    """One character, or a letter and a mark behind it: alike on any screen."""
    spelled = ["J\u00f6rg", "Jo\u0308rg", "Jorg", "J\u00f6rg", "\u212b"]
    _, groups = load(write, spelled)
    assert groups.names == ("J\u00f6rg", "Jorg", "\u00c5")
    assert groups.owners.tolist() == [0, 0, 1, 0, 2]


@pytest.mark.parametrize("write", SOURCES)
@pytest.mark.parametrize("nothing", ["", "  ", "NaN", "null", "N/A"])
def test_nobody_is_a_person(load, write, nothing):
    patients = [*PATIENTS[:3], nothing, PATIENTS[4]]
    with pytest.raises(InputError, match="1 of 5 images have no patient in"):
        load(write, patients)


def test_columns_with_nothing_in_some_rows(load):
    with pytest.raises(InputError, match=r"no patient in .*\(row 1 of .*\.parquet\)"):
        load(with_parquet, [*PATIENTS[:3], None, PATIENTS[4]])


def test_fractions_are_no_names():
    """A column of integers becomes one of fractions where one is missing."""
    with pytest.raises(InputError, match=r"x has the patient '7\.0' in here"):
        complete_groups([7.0], ["x"], "patient", "here")
    with pytest.raises(InputError, match="'True'"):
        complete_groups([True], ["x"], "patient", "here")


def test_many_missing_are_counted():
    with pytest.raises(InputError, match=r"9 of 9 .*\(0, 1, 2, 3, 4 and 4 more\)"):
        complete_groups(9 * [None], [str(i) for i in range(9)], "patient", "here")


def test_some_may_stand_alone_behind():
    groups = Groups.of(["0000", "b", "0000"]).and_singles(2)
    assert groups.owners.tolist() == [0, 1, 0, 2, 3]
    assert len(set(groups.names)) == 4


def test_a_source_without_groups_is_refused(data_config):
    config = data_config(group="patient")
    source = data.load_source(config, "train")
    with pytest.raises(InputError, match="'digits', which has no groups"):
        data.load_groups(config, source)
    config.group = ""
    assert data.load_groups(config, source) is None
