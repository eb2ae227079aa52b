"""Captions beside images, in every source that has them."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from dpdm_jax import data, planning, rooms
from dpdm_jax.conditions import Tokens
from dpdm_jax.configs import base
from dpdm_jax.data import captions, digit_captions, digits
from dpdm_jax.data.sources import ConditionedSource
from dpdm_jax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
TEXTS = ["a red cat", "a dog", "a cat, asleep", "übung"]
NAMES = ["a.png", "b.png", "c.png", "d.png"]
LENGTH = 16


def write_images(folder, names=NAMES):
    for name, image in zip(names, IMAGES, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)


def write_csv(folder, rows=None, header="file_name,text"):
    rows = zip(NAMES, TEXTS, strict=True) if rows is None else rows
    quoted = [f'{name},"{text}"' for name, text in rows]
    (folder / "metadata.csv").write_text("\n".join([header, *quoted]) + "\n")


def with_csv(folder):
    write_images(folder)
    write_csv(folder, reversed(list(zip(NAMES, TEXTS, strict=True))))
    return "image_folder"


def with_jsonl(folder):
    write_images(folder)
    rows = zip(NAMES, TEXTS, strict=True)
    lines = [json.dumps({"file_name": n, "text": t, "more": 1}) for n, t in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    return "image_folder"


def with_classes(folder):
    """Captions beside class folders, whose labels evaluation reads."""
    names = ["x/a.png", "x/b.png", "y/c.png", "y/d.png"]
    write_images(folder, names)
    write_csv(folder, zip(names, TEXTS, strict=True))
    return "image_folder"


def with_npz(folder):
    np.savez(folder / "train.npz", images=IMAGES, captions=np.array(TEXTS))
    return "npz"


def with_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_images(folder / "files")
    files = [(folder / "files" / name).read_bytes() for name in NAMES]
    rows = {
        "image": [{"bytes": content, "path": "x.png"} for content in files],
        "text": TEXTS,
    }
    for i, part in enumerate((slice(0, 1), slice(1, 4))):
        table = pyarrow.table({name: column[part] for name, column in rows.items()})
        parquet.write_table(table, folder / f"train-{i:05d}-of-00002.parquet")
    return "parquet"


@pytest.fixture
def load(tmp_path, data_config):
    def load(source, folder=tmp_path, split="train", **fields):
        config = data_config(source=source, path=str(folder), condition="captions")
        config.captions.length = LENGTH
        config.update(fields)
        return data.load_source(config, split)

    return load


@pytest.mark.parametrize(
    "write", [with_csv, with_jsonl, with_classes, with_npz, with_parquet]
)
def test_captions_stand_beside_their_images(tmp_path, load, write):
    source = load(write(tmp_path))
    assert source.condition == Tokens(LENGTH, 257, "bytes")
    found = source.examples(np.array([2, 0, 3]))
    np.testing.assert_array_equal(found["image"], IMAGES[[2, 0, 3]])
    texts = [
        bytes([token - 1 for token in row if token]).decode()
        for row in found["condition"].tolist()
    ]
    assert texts == [TEXTS[2], TEXTS[0], TEXTS[3]]
    assert found["condition"].dtype == source.spec["condition"].dtype
    batch = data.load_batch(source, np.array([1, -1]))
    assert not batch.examples["condition"][1].any()


def test_all_sources_have_one_digest_and_any_change_shows(tmp_path, load):
    """A caption is as much a part of the data as its image."""
    digests = set()
    for write in (with_csv, with_jsonl, with_npz):
        folder = tmp_path / write.__name__
        folder.mkdir()
        digests.add(data.bind(load(write(folder), folder))[1])
    assert len(digests) == 1
    for number, changed in enumerate(
        (["A red cat", *TEXTS[1:]], TEXTS[::-1], [TEXTS[1], TEXTS[0], *TEXTS[2:]])
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.savez(folder / "train.npz", images=IMAGES, captions=np.array(changed))
        digests.add(data.bind(load("npz", folder))[1])
    folder = tmp_path / with_npz.__name__
    longer = {"length": LENGTH + 1}
    digests.add(data.bind(load("npz", folder, captions=longer))[1])
    digests.add(data.bind(load("npz", folder, condition="labels"))[1])
    assert len(digests) == 6


def test_labels_beside_captions_are_there_for_evaluation(tmp_path, data_config):
    config = data_config(
        source=with_classes(tmp_path), path=str(tmp_path), condition="captions"
    )
    source = data.load_source(data.labelled(config), "train")
    assert source.condition.num_classes == 2
    assert source.examples(np.arange(4))["condition"].tolist() == [0, 0, 1, 1]
    assert config.condition == "captions"
    assert data.load_captions(config, "train") == TEXTS


def test_cut_captions_are_said_to_the_owner(tmp_path, load, caplog):
    source = with_npz(tmp_path)
    load(source)
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        found = load(source, captions={"length": 5})
    assert "Private: 3 of 4 captions are longer than data.captions.length" in (
        caplog.text
    )
    assert found.spec["condition"].shape == (5,)


def test_a_plan_needs_no_data():
    config = base.get_config()
    config.data.update({"num_examples": 9, "image_size": 8, "channels": 1})
    config.data.condition = "captions"
    problem = planning.public_problem(config)
    assert problem.condition == Tokens(64, 257, "bytes")
    rooms.check(config)


def test_digits_are_spoken_of_by_their_class(data_config):
    config = data_config(condition="captions")
    labels = data.load_source(data.labelled(config), "train")
    labels = labels.examples(np.arange(len(labels)))["condition"]
    texts = data.load_captions(config, "train")
    for text, label in zip(texts, labels, strict=True):
        assert digit_captions.WORDS[label] in text or str(label) in text
    wordings = {w.format(word="three", figure=3) for w in digit_captions.WORDINGS}
    known = captions.by_label(texts, labels)
    assert {known[wording] for wording in wordings} == {3}
    assert len(data.load_captions(config, "test")) == digits.NUM_TEST


def test_characters_of_fonts_are_spoken_of_by_their_figure(data_config):
    config = data_config(source="glyphs", condition="captions", image_size=8)
    config.glyphs.images_per_character = 3
    config.glyphs.characters = "073"
    source = data.load_source(config, "train")
    texts = data.load_captions(config, "train")
    tokens, _ = data.tokenizer(config)(texts)
    indices = np.array([5, 0, 5])
    seen = source.examples(indices)
    np.testing.assert_array_equal(seen["condition"], tokens[indices])
    plain = data.load_source(data.labelled(config), "train").examples(indices)
    np.testing.assert_array_equal(seen["image"], plain["image"])
    for text, figure in zip(texts, 3 * [0, 7, 3], strict=True):
        assert digit_captions.WORDS[figure] in text or str(figure) in text
    assert texts != data.load_captions(config, "test")
    # What is not in memory is held to its captions, too.
    _, content = data.bind(source)
    others = ConditionedSource(source, tokens[::-1], source.condition)
    assert data.bind(others)[1] != content

    config.glyphs.characters = "0a"
    with pytest.raises(InputError, match=r"'0a' and data\.condition is 'capt"):
        data.load_source(config, "train")


def test_a_caption_beside_several_labels_has_none():
    found = captions.by_label(["a", "b ", "a", "b"], np.array([0, 1, 2, 1]))
    assert found == {"b": 1}


def npz_of(*texts):
    def write(folder):
        np.savez(folder / "train.npz", images=IMAGES, captions=np.array(texts))
        return "npz"

    return write


def csv_of(rows, header="file_name,text"):
    def write(folder):
        write_images(folder)
        write_csv(folder, rows, header)
        return "image_folder"

    return write


def table_of(name, content):
    def write(folder):
        write_images(folder)
        (folder / name).write_bytes(content)
        return "image_folder"

    return write


def both_tables(folder):
    with_jsonl(folder)
    return with_csv(folder)


def no_table(folder):
    write_images(folder)
    return "image_folder"


def no_captions(folder):
    np.savez(folder / "train.npz", images=IMAGES)
    return "npz"


ROWS = list(zip(NAMES, TEXTS, strict=True))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            csv_of(ROWS[:2]),
            r"2 of 4 images have no caption in .*metadata\.csv \(c\.png, d\.png\); "
            "allowed: a caption for each",
        ),
        (csv_of([*ROWS[:3], ("d.png", " ")]), r"1 of 4 images .* \(d\.png\)"),
        (csv_of([*ROWS, ("e.png", "x")]), "lists 'e.png', which is no image"),
        (csv_of([*ROWS, ROWS[0]]), "Row 5 of .* has file_name 'a.png' again"),
        (csv_of([*ROWS, ("", "x")]), "Row 5 of .* has no file_name"),
        (csv_of(ROWS, "file_name,caption"), "no column 'text'; allowed: file_name"),
        (csv_of(ROWS, "name,text"), "no column 'file_name'"),
        (no_table, r"has no metadata\.csv; allowed for captions and groups: one of"),
        (both_tables, r"has metadata\.csv and metadata\.jsonl; allowed"),
        (table_of("metadata.csv", b"file_name,text\n\xff,x\n"), "UnicodeDecodeError"),
        (table_of("metadata.csv", b'file_name,text\n"a.png,x\n'), "cannot be read"),
        (table_of("metadata.jsonl", b"{\n"), "JSONDecodeError"),
        (table_of("metadata.jsonl", b"[" * 100_000), "cannot be read"),
        (table_of("metadata.jsonl", b"[1]\n"), "Row 1 of .* no column 'file_name'"),
        (
            table_of("metadata.jsonl", b'{"file_name": "a.png", "text": 3}\n'),
            "a.png has the caption '3' in .*metadata.jsonl; allowed: a text",
        ),
        (
            npz_of(*TEXTS[:3], ""),
            r"1 of 4 images have no caption in .*train\.npz \(image 3\)",
        ),
        (npz_of(*TEXTS[:3]), "has 3 captions and 4 images; allowed: one for each"),
        (npz_of(1, 2, 3, 4), "image 0 has the caption '1'"),
        (no_captions, "holds no array 'captions'; allowed: strings"),
    ],
)
def test_bad_captions(tmp_path, load, write, message):
    with pytest.raises(InputError, match=message) as error:
        load(write(tmp_path))
    assert "\n" not in str(error.value)


def test_many_images_without_captions_are_counted():
    texts = [None, "x", *[""] * 8]
    with pytest.raises(InputError, match=r"9 of 10 .* \(0, 2, 3, 4, 5 and 4 more\)"):
        captions.complete(texts, [str(i) for i in range(10)], "here")


def test_a_source_without_captions_is_refused(load):
    with pytest.raises(
        InputError,
        match=r"data\.source is 'idx', which has none; allowed: digits, glyphs, hugg",
    ):
        load("idx")
    with pytest.raises(
        InputError, match=r"data\.condition is 'sound'; allowed: labels"
    ):
        load("npz", condition="sound")


def test_settings_of_captions_are_refused_for_labels():
    config = base.get_config()
    config.data.captions.length = 9
    with pytest.raises(InputError, match=r"or data\.condition='captions'"):
        rooms.check(config)
