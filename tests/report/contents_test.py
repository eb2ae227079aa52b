import json

import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.report import contents
from dpdm_jax.sampling import images


def read(writer, *, private=True):
    return contents.read_contents(writer.workdir, private=private)


def test_everything(writer):
    writer.everything()
    found = read(writer)
    assert found.folder == "my_run"
    assert found.config["name"] == "digits"
    assert found.ledger.authorized_steps == 20
    assert [each.name for each in found.samples] == ["samples", "fid"]
    assert list(found.private.evaluations) == ["samples", "fid"]
    assert found.private.curves["private/loss"] == [(10, 0.9125), (20, 0.8625)]
    (picture,) = found.private.pictures
    assert picture.name == "evaluation/samples/PRIVATE_closest_pairs_pixels.png"
    assert found.problems == []


def test_private_files_are_read_only_if_asked_for(writer):
    writer.everything()
    assert read(writer, private=False).private is None


def test_rows_of_classes(writer):
    writer.config()
    made = writer.samples(num_classes=3, count=50)
    (samples,) = read(writer).samples
    assert (samples.count, samples.num_classes) == (50, 3)
    assert [label for label, _ in samples.rows] == [0, 1, 2]
    np.testing.assert_array_equal(samples.rows[1][1], made[1::3][:10])


def test_many_classes_are_cut_and_counted(writer):
    writer.config()
    writer.samples(num_classes=100, count=200)
    (samples,) = read(writer).samples
    assert samples.num_classes == 100
    assert len(samples.rows) == contents.MAX_CLASSES


def test_unlabelled_images(writer):
    writer.config()
    made = writer.samples(num_classes=0, count=23)
    (samples,) = read(writer).samples
    assert samples.num_classes == 0
    assert [label for label, _ in samples.rows] == [None] * 3
    shown = np.concatenate([images for _, images in samples.rows])
    np.testing.assert_array_equal(shown, made)


def test_rows_of_prompts(writer):
    writer.config()
    made = writer.samples(num_classes=0, count=23)
    asked = np.array(["a dog", "a cat"])[np.arange(23) % 2]
    path = writer.workdir / "samples" / "samples" / "samples.npz"
    images.write_npz(path, made, None, asked)
    (samples,) = read(writer).samples
    assert (samples.num_classes, samples.num_prompts) == (0, 2)
    assert [prompt for prompt, _ in samples.rows] == ["a dog", "a cat"]
    np.testing.assert_array_equal(samples.rows[1][1], made[1::2][:10])


def test_a_picture_stands_in_for_its_archive(writer):
    writer.config()
    writer.samples()
    folder = writer.workdir / "samples" / "samples"
    writer.pictures().rename(folder / "grid.png")
    (folder / "samples.npz").unlink()
    (samples,) = read(writer).samples
    assert samples.count == 0
    assert samples.picture == (folder / "grid.png").read_bytes()


def test_newest_snapshot(writer):
    writer.config()
    folder = writer.workdir / "samples" / "snapshots"
    folder.mkdir(parents=True)
    for step in (5, 20):
        writer.pictures(seed=step).rename(folder / f"step_{step:07d}.png")
    found = read(writer)
    assert found.samples == []
    assert found.snapshot.name == "samples/snapshots/step_0000020.png"


def test_steps_that_were_taken_twice_count_once(writer):
    writer.config()
    writer.metrics(steps=(10, 20))
    writer.metrics(steps=(20, 30), loss=2.0)
    loss = read(writer).private.curves["private/loss"]
    assert [step for step, _ in loss] == [10, 20, 30]
    assert loss[1][1] == 2.05


def test_what_cannot_be_read_is_said(writer):
    writer.everything()
    folder = writer.workdir
    (folder / "config.json").write_text("{")
    (folder / "samples/fid/samples.npz").write_bytes(b"PK no")
    (folder / "samples/samples/settings.json").write_text("[]")
    (folder / "evaluation/fid.json").write_bytes(b"\xff")
    (folder / "evaluation/samples/PRIVATE_closest_pairs_pixels.png").write_text("?")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 30, "loss": "low"}\n7\n{"step": 40, "lo')
    found = read(writer)
    assert set(found.problems) == {
        "config.json cannot be read.",
        "samples/fid/samples.npz cannot be read as images.",
        "samples/samples/settings.json cannot be read.",
        "evaluation/fid.json cannot be read.",
        "evaluation/samples/PRIVATE_closest_pairs_pixels.png cannot be read as a "
        "picture.",
        "3 of 5 lines of metrics.jsonl are damaged.",
    }
    assert [each.count for each in found.samples] == [0, 120]
    assert len(found.private.curves["private/loss"]) == 2


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros(3, int)},
        {"images": np.zeros((3, 8, 8, 1), np.float32)},
        {"images": np.zeros((3, 8, 8), np.uint8)},
        {"images": np.zeros((3, 8, 8, 2), np.uint8)},
        {"images": np.zeros((3, 8, 8, 1), np.uint8), "labels": np.zeros(2, int)},
        {"images": np.zeros((3, 8, 8, 1), np.uint8), "labels": np.zeros(3)},
    ],
)
def test_archives_of_something_else(writer, arrays):
    writer.config()
    folder = writer.workdir / "samples" / "odd"
    folder.mkdir(parents=True)
    np.savez(folder / "samples.npz", **arrays)
    found = read(writer)
    assert found.problems == ["samples/odd/samples.npz cannot be read as images."]


@pytest.mark.parametrize("exists", [True, False])
def test_no_run_directory(tmp_path, exists):
    folder = tmp_path / "elsewhere"
    if exists:
        folder.mkdir()
    with pytest.raises(InputError, match=r"elsewhere is no run directory; allowed: "):
        contents.read_contents(folder, private=True)


def test_a_damaged_ledger_is_an_error(writer):
    writer.ledger()
    path = writer.workdir / "privacy.json"
    fields = json.loads(path.read_text())
    fields["events"][0]["authorized_steps"] = 1
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="is damaged"):
        read(writer)
