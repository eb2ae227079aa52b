"""Folders of Hugging Face's library, made here as its version 5.2 writes them."""

import json

import numpy as np
import pytest
from reading import images_and_labels, png

from dpdm_jax import data
from dpdm_jax.errors import InputError

pyarrow = pytest.importorskip("pyarrow")

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = [2, 0, 1, 2, 0, 1]
NAMES = ("cat", "dog", "eel")


def write(folder, rows=range(6), shards=2, label=None, path=None):
    """Writes what ``Dataset.save_to_disk`` does."""
    features = {
        "image": {"_type": "Image"},
        "label": label or {"names": list(NAMES), "_type": "ClassLabel"},
        "patient": {"dtype": "int64", "_type": "Value"},
    }
    schema = pyarrow.schema(
        [
            ("image", pyarrow.struct({"bytes": pyarrow.binary(), "path": "string"})),
            ("label", pyarrow.int64()),
            ("text", pyarrow.string()),
            ("patient", pyarrow.int64()),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"data-{i:05d}-of-{shards:05d}.arrow" for i in range(shards)]
    for i, name in enumerate(files):
        held = list(rows)[i::shards] if shards == 1 else np.array_split(rows, shards)[i]
        content = [
            {"bytes": None if path else png(IMAGES[row]), "path": path} for row in held
        ]
        table = pyarrow.table(
            {
                "image": content,
                "label": [LABELS[row] for row in held],
                "text": [f"image {row}" for row in held],
                "patient": [int(row) // 2 for row in held],
            },
            schema=schema,
        )
        with pyarrow.ipc.new_stream(str(folder / name), schema) as file:
            file.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": name} for name in files], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))


@pytest.fixture
def load(data_config, tmp_path):
    def load(split="train", path=tmp_path, **fields):
        config = data_config(source="huggingface", path=str(path))
        config.update(fields)
        return data.load_source(config, split)

    return load


@pytest.mark.parametrize("on_demand", [False, True])
def test_splits_of_a_dictionary(load, tmp_path, on_demand):
    write(tmp_path / "train")
    write(tmp_path / "test", rows=[1], shards=1)
    source = load(on_demand=on_demand)
    assert isinstance(source, data.StoredSource) == on_demand
    images, labels = images_and_labels(source)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == LABELS
    chosen = source.examples(np.array([4, 1]))
    np.testing.assert_array_equal(chosen["image"], IMAGES[[4, 1]])
    test = load("test", on_demand=on_demand)
    # The names say how many classes there are, whichever occur.
    assert (len(test), test.condition.num_classes) == (1, 3)


def test_one_data_set_is_the_training_split(load, tmp_path, data_config):
    write(tmp_path)
    assert load(class_names=NAMES).condition.num_classes == 3
    captioned = load(condition="captions")
    assert captioned.spec["condition"].shape == (64,)
    config = data_config(source="huggingface", path=str(tmp_path), group="patient")
    assert data.load_groups(config, load()).owners.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match="without a test split; allowed: a folder"):
        load("test")


def test_images_may_be_named_by_a_path(load, tmp_path):
    write(tmp_path, rows=[0], shards=1, path="0.png")
    with pytest.raises(InputError, match=r"names the image 0\.png, which cannot be"):
        load()
    (tmp_path / "0.png").write_bytes(png(IMAGES[3]))
    np.testing.assert_array_equal(images_and_labels(load())[0], IMAGES[3:4])


def cut(folder):
    file = folder / "data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:300])


def remove(folder):
    (folder / "data-00001-of-00002.arrow").unlink()


def state(**fields):
    def write(folder):
        path = folder / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return write


@pytest.mark.parametrize(
    ("damage", "fields", "message"),
    [
        (cut, {}, r"00001-of-00002\.arrow cannot be read as an Arrow stream"),
        (remove, {}, "lists 'data-00001-of-00002.arrow', which is no file beside"),
        (state(_data_files=3), {}, r"state\.json cannot be read \(TypeError"),
        (state(_data_files=[]), {}, "has no rows"),
        (state(_data_files=[{"filename": "../x"}]), {}, r"lists '\.\./x', which is no"),
        (state(_indices_data_files=[1]), {}, r"after flatten_indices\(\)"),
        (None, {"path": "{here}/.."}, "has the splits set, and none called 'train'"),
        (None, {"class_names": NAMES[::-1]}, "has the classes cat, dog, eel; allowed"),
        (None, {"num_classes": 2}, "go up to 2; allowed: 0 to 1"),
        (None, {"huggingface": {"image": "img"}}, "no column 'img'; allowed: image, "),
        (None, {"group": "who"}, "no column 'who'; allowed: image, label, text, pat"),
    ],
)
def test_what_does_not_fit_gets_a_sentence(
    tmp_path, data_config, damage, fields, message
):
    folder = tmp_path / "data" / "set"
    write(folder)
    if damage is not None:
        damage(folder)
    config = data_config(source="huggingface", path=str(folder))
    config.update({k: str(folder.parent) if k == "path" else fields[k] for k in fields})
    with pytest.raises(InputError, match=message) as error:
        data.load_groups(config, data.load_source(config, "train"))
    assert "\n" not in str(error.value)
