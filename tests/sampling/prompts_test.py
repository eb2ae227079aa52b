"""Prompts: how they are read, and that nothing else asks for images."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from dpdm_jax import command_line
from dpdm_jax.conditions import Tokens, of_classes, tokenizers
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.sampling import prompts, run, snapshot
from dpdm_jax.training.checkpoints import Checkpoints

BYTES = Tokens(12, 257, "bytes")


def config_of(**sample):
    config = command_line.load_config("configs/digits_text.py")
    config.data.captions.length = BYTES.length
    config.network.mlp.update({"base_width": 4, "hidden_width": 8})
    config.sampler.num_steps = 3
    config.sample.update({"num_images": 5, "batch_size": 8, "prompt": ""} | sample)
    return config


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A run directory with random weights of a model that reads text. Read-only."""
    folder = tmp_path_factory.mktemp("imported") / "run"
    config = config_of()
    model = build_model(config, (8, 8, 1), BYTES)
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape),
        model.init(jax.random.key(0)),
    )
    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save_imported(model, 5, params, params, config={}, origin={})
    checkpoints.close()
    return folder


@pytest.fixture
def workdir(imported, tmp_path):
    """A copy of it."""
    return shutil.copytree(imported, tmp_path / "run")


def read(folder):
    with np.load(folder / run.ARCHIVE) as archive:
        return dict(archive)


@pytest.mark.slow
def test_prompts_take_turns_and_stand_beside_their_images(workdir):
    config = config_of(prompt="a tiny 3\n  a cat/dog \n\n", png=True)
    folder = run.sample(config, workdir)
    found = read(folder)
    assert set(found) == {"images", "prompts"}
    assert found["prompts"].tolist() == ["a tiny 3", "a cat/dog"] * 2 + ["a tiny 3"]
    files = sorted(
        p.relative_to(folder / "png").as_posix() for p in folder.glob("png/*/*")
    )
    assert files == [
        "0000_a_tiny_3/0000000.png",
        "0000_a_tiny_3/0000002.png",
        "0000_a_tiny_3/0000004.png",
        "0001_a_cat_dog/0000001.png",
        "0001_a_cat_dog/0000003.png",
    ]
    with Image.open(folder / "png" / files[3]) as image:
        np.testing.assert_array_equal(np.asarray(image), found["images"][1, ..., 0])
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["prompts"] == ["a tiny 3", "a cat/dog"]
    # A row of the picture for each.
    height = np.asarray(Image.open(folder / run.GRID)).shape[0]
    assert height == 2 * (48 + 2) + 2


@pytest.mark.slow
def test_a_file_gives_the_same_images_and_is_warned_of(workdir, tmp_path, caplog):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa tiny 3\r\na dog\r\n", encoding="utf-8")
    typed = read(run.sample(config_of(prompt="a tiny 3\na dog", name="typed"), workdir))
    assert prompts.NOT_PROTECTED not in caplog.text
    with caplog.at_level(logging.WARNING):
        found = read(run.sample(config_of(prompts=str(path)), workdir))
    assert prompts.NOT_PROTECTED in caplog.text
    for name in ("images", "prompts"):
        np.testing.assert_array_equal(found[name], typed[name])


@pytest.mark.slow
def test_other_prompts_are_other_images_and_other_settings(workdir):
    one = read(run.sample(config_of(prompt="a tiny 3"), workdir))["images"]
    with pytest.raises(InputError, match=r"other settings \(prompts\)"):
        run.sample(config_of(prompt="a dog"), workdir)
    other = run.sample(config_of(prompt="a dog", name="other"), workdir)
    assert (read(other)["images"] != one).any()


@pytest.mark.slow
def test_tokens_may_be_given_themselves_and_are_warned_of(workdir, tmp_path, caplog):
    tokens = tokenizers.of_bytes(BYTES.length)(["a dog"]).tokens.repeat(5, axis=0)
    np.save(tmp_path / "tokens.npy", tokens)
    config = config_of(labels=str(tmp_path / "tokens.npy"), name="tokens")
    with caplog.at_level(logging.WARNING):
        found = read(run.sample(config, workdir))
    assert prompts.NOT_PROTECTED in caplog.text
    assert set(found) == {"images"}
    asked = read(run.sample(config_of(prompt="a dog"), workdir))
    np.testing.assert_array_equal(found["images"], asked["images"])


@pytest.mark.slow
def test_long_prompts_are_cut_and_said(workdir, caplog):
    with caplog.at_level(logging.WARNING):
        run.sample(config_of(prompt="a handwritten three"), workdir)
    assert "The prompt 'a handwritten three' is longer than 12 tokens" in caplog.text


def test_a_model_of_text_without_prompts(workdir):
    with pytest.raises(
        InputError, match="are empty and the model reads captions; allowed: sample"
    ):
        run.sample(config_of(), workdir)
    assert not (workdir / "samples").exists()


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"captions": {"length": 13}}, r"length=12 and data\.captions\.vocabulary=''"),
        (
            {"condition": "labels", "captions": {"length": 64}},
            r"config\.data is of labels; allowed: data\.condition='captions', data",
        ),
    ],
)
def test_other_tokens_than_those_trained_on(workdir, changes, allowed):
    config = config_of(prompt="a dog")
    config.data.update(changes)
    with pytest.raises(InputError, match=allowed):
        run.sample(config, workdir)


def test_another_vocabulary_is_named_by_its_digest():
    trained = Tokens(12, 257, "0123abcd")
    with pytest.raises(InputError, match="vocabulary=FILE with the SHA-256 0123abcd"):
        prompts.tokenized(config_of(), ["a dog"], trained)


def test_prompts_are_refused_where_no_text_is_read(tmp_path):
    config = config_of(prompt="a dog")
    with pytest.raises(InputError, match="trained on 10 classes; allowed: none"):
        prompts.of_model(config, of_classes(10))
    assert prompts.of_model(config_of(), of_classes(10)) is None


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (None, {}, "cannot be read .FileNotFoundError"),
        (b"\xff", {}, "cannot be read .UnicodeDecodeError"),
        (b" \n\n", {}, "has no prompt; allowed: sample.prompts=FILE"),
        (b"a", {"prompt": "b"}, "sample.prompt 'b'; allowed: one of them"),
    ],
)
def test_bad_files(tmp_path, content, fields, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        prompts.read(config_of(prompts=str(path), **fields).sample)


@pytest.mark.parametrize(
    ("text", "rows"), [("", [""]), ("a dog\na cat", ["a dog", "a cat"])]
)
def test_pictures_in_training_are_asked_for_by_prompts_or_nothing(
    tmp_path, monkeypatch, text, rows
):
    """Never by captions, which are private; the data is not even at hand."""
    asked = []

    def make_generator(*args, **kwargs):
        def generate(key, params, indices, conditions):
            asked.append(np.asarray(conditions))
            return np.zeros((len(indices), 8, 8, 1), np.float32)

        return generate

    monkeypatch.setattr(snapshot, "make_generator", make_generator)
    config = config_of(prompt=text)
    config.log.snapshot_per_class = 3
    writer = snapshot.SnapshotWriter(config, tmp_path)
    writer(build_model(config, (8, 8, 1), BYTES), None, 7)
    wanted = tokenizers.of_bytes(BYTES.length)(rows * 3).tokens
    np.testing.assert_array_equal(asked[0], wanted)
    assert (tmp_path / "samples" / "snapshots" / "step_0000007.png").exists()


def test_missing_prompts_are_found_before_training(tmp_path):
    with pytest.raises(InputError, match="which cannot be read"):
        snapshot.SnapshotWriter(config_of(prompts=str(tmp_path / "none")), tmp_path)
