"""A model of captions from its training to its release: tiny, and all the way."""

import json

import numpy as np
import pytest

import dpdm_jax
from dpdm_jax import command_line
from dpdm_jax.configs import released as released_config
from dpdm_jax.errors import InputError
from dpdm_jax.initial import read_initial
from dpdm_jax.release import bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.model import open_as_run
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training.loop import train

pytestmark = pytest.mark.slow

CAPTIONS = ["a red cat", "a dog", "someone's name"] * 40
IMAGES = np.random.default_rng(0).integers(0, 256, (120, 8, 8, 1), np.uint8)


def config_of(folder, **fields):
    config = command_line.load_config("configs/digits_text.py")
    config.data.update(
        {"source": "npz", "path": str(folder), "num_examples": 0, "num_classes": 0}
    )
    config.data.captions.length = 16
    config.initial.parent = ""
    config.network.mlp.update({"base_width": 4, "hidden_width": 8})
    config.diffusion.noise_multiplicity = 2
    config.train.update({"batch_size": 40, "num_steps": 2, "microbatch_size": 64})
    config.checkpoint.every_steps = 1
    config.log.update({"snapshot_every_steps": 0, "tensorboard": False})
    config.sampler.update({"num_steps": 3})
    config.sample.update({"num_images": 4, "batch_size": 4, "prompt": "a cat\na bird"})
    config.evaluate.prompt_classes = ()
    for name, value in fields.items():
        config[name].update(value)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the data, and a run that was trained and sampled from."""
    folder = tmp_path_factory.mktemp("text")
    np.savez(folder / "train.npz", images=IMAGES, captions=np.array(CAPTIONS))
    train(config_of(folder), folder / "run")
    sampling_run.sample(config_of(folder), folder / "run")
    return folder


@pytest.fixture(scope="module")
def released(trained):
    settings = {"release": {"samples": "samples"}}
    return release(config_of(trained, **settings), trained / "run")


def stored(folder, name):
    return json.loads((folder / name).read_text())


def test_the_release_says_what_its_captions_are_and_is_intact(released):
    assert verify(released).failures == ()
    manifest = stored(released, "MANIFEST.json")
    assert manifest["model"]["num_classes"] == 0
    assert manifest["model"]["condition"] == {
        "kind": "tokens",
        "length": 16,
        "vocabulary": 257,
        "tokenizer": "bytes",
    }
    assert manifest["samples"]["prompts"] == 2
    config = stored(released, "config.json")
    assert config["data"]["condition"] == "captions"
    # They may be private captions, and stand where they are meant to: in the archive.
    assert not {"prompt", "prompts"} & set(config["sample"])
    with np.load(released / "samples.npz") as archive:
        assert archive["prompts"].tolist() == ["a cat", "a bird"] * 2


def test_prompts_are_disclosed(released):
    (disclosure,) = stored(released, "PRIVACY.json")["disclosures"]
    assert disclosure["file"] == "samples.npz"
    assert "if they are private captions, no epsilon covers" in disclosure["what"]
    assert disclosure["what"] in (released / "PRIVACY.md").read_text()


def test_no_caption_is_in_the_release_or_the_public_part_of_a_run(trained, released):
    for path in (*released.rglob("*"), *(trained / "run").rglob("*")):
        if path.is_file():
            assert b"someone's name" not in path.read_bytes(), path


def test_other_captions_are_another_run(trained, tmp_path):
    changed = ["a red cap", *CAPTIONS[1:]]
    np.savez(tmp_path / "train.npz", images=IMAGES, captions=np.array(changed))
    config = config_of(tmp_path, train={"stop_after_steps": 1})
    with pytest.raises(InputError, match="training data is not that which"):
        train(config, trained / "run")
    config = config_of(trained, data={"captions": {"length": 15}})
    with pytest.raises(InputError, match="is a checkpoint of another model"):
        train(config, trained / "run")


def test_a_release_makes_images_by_prompts(released, trained):
    model = dpdm_jax.load_release(released)
    images, labels = model.sample(4, prompts=["a cat", "a bird"])
    assert labels is None
    with np.load(trained / "run" / "samples" / "samples" / "samples.npz") as archive:
        np.testing.assert_array_equal(images, archive["images"])
    assert model.sample(1, prompts="a cat")[0].shape == (1, 8, 8, 1)
    # The empty caption is none: what guidance goes away from.
    assert model.sample(1, prompts="")[0].shape == (1, 8, 8, 1)
    for prompts in (None, []):
        with pytest.raises(InputError, match="allowed: a text or several"):
            model.sample(1, prompts=prompts)


def test_a_release_is_sampled_from_by_prompts_of_its_own(released, tmp_path):
    config = released_config.get_config(str(released))
    config.sample.update({"num_images": 1, "name": "cat"})
    open_as_run(released, config, tmp_path / "run")
    with pytest.raises(InputError, match="are empty and the model reads captions"):
        sampling_run.sample(config, tmp_path / "run")
    config.sample.prompt = "a cat"
    folder = sampling_run.sample(config, tmp_path / "run")
    with np.load(folder / "samples.npz") as archive:
        assert archive["prompts"].tolist() == ["a cat"]


def test_samples_with_prompts_that_the_manifest_does_not_mention(released, tmp_path):
    manifest = stored(released, "MANIFEST.json")
    del manifest["samples"]["prompts"]
    config = bundle.read_config(released)
    model = bundle.read_model(released, config, manifest)
    (failure,) = bundle.sample_failures(released, model, manifest)
    assert "does not hold uint8 images" in failure


@pytest.mark.parametrize("other", [{"length": 15}, {"vocabulary": "vocab.txt"}])
def test_weights_that_read_other_tokens_are_refused(trained, tmp_path, other):
    if "vocabulary" in other:
        pytest.importorskip("tokenizers")
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "cat"]
        (tmp_path / "vocab.txt").write_text("\n".join(pieces))
        other = {"vocabulary": str(tmp_path / "vocab.txt")}
    initial = {"weights": str(trained / "run"), "other_data": True}
    config = config_of(trained, initial=initial, data={"captions": other})
    with pytest.raises(InputError, match="the initial weights read captions of 16"):
        train(config, tmp_path / "child", read_initial=read_initial)
