"""The model card: what it says is so, and who edits it spoils nothing else."""

import json
import os
import re
import shutil

import pytest
import yaml

import dpdm_jax
from dpdm_jax.errors import InputError
from dpdm_jax.release import bundle, card
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify


def metadata(folder):
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture(scope="module")
def read(released):
    """Reads a JSON file of the release."""
    return lambda name: json.loads((released / name).read_text())


@pytest.mark.slow
def test_metadata_are_those_that_a_hub_reads(released, read):
    stated = read("PRIVACY.json")
    found = metadata(released)
    assert found["license"] == "unknown"
    assert found["library_name"] == "dpdm_jax"
    assert found["pipeline_tag"] == "unconditional-image-generation"
    assert "differential-privacy" in found["tags"]
    assert found["privacy"] == {
        "private": True,
        "epsilon": float(stated["epsilon"]),
        "delta": stated["delta"],
        "unit": "one training image",
        "accountant": "pld",
        "data": "1437 training images (source digits), 8 x 8 x 1, 10 classes",
        "statement": "PRIVACY.md",
    }


def test_words_of_the_card(released, read):
    text = (released / "README.md").read_text()
    stated = read("PRIVACY.json")
    assert f"**epsilon = {stated['epsilon']} at delta = 0.0001**" in text
    assert "30, in `samples.npz`" in text
    for part in ("Sample from it", "Intended use", "Limits", "Outside the guarantee"):
        assert f"\n## {part}\n" in text
    assert all(f"- {each}" in text for each in stated["outside"])


def test_the_lines_that_sample_run(released, monkeypatch, capsys):
    (lines,) = re.findall(
        r"```python\n(.*?)```", (released / "README.md").read_text(), re.S
    )
    assert len([line for line in lines.splitlines() if line]) == 4
    monkeypatch.chdir(released)
    exec(lines, {})
    promised = re.search(r"# (uint8 .*)", lines)[1]
    assert capsys.readouterr().out.strip() == promised == "uint8 (16, 8, 8, 1)"


def test_an_edited_card_changes_nothing_that_is_said_of_the_rest(bundle_copy, released):
    path = bundle_copy / "README.md"
    path.write_text(path.read_text() + "\nEpsilon is 0.001!\n")
    outcome = verify(bundle_copy)
    assert outcome.failures == ("README.md differs from its checksum.",)
    sound = verify(released).to_dict()
    changed = {"ok", "failures"}
    assert {k: v for k, v in outcome.to_dict().items() if k not in changed} == {
        k: v for k, v in sound.items() if k not in changed
    }
    # Whoever has the model can use it.
    dpdm_jax.load_release(bundle_copy)
    path.unlink()
    dpdm_jax.load_release(bundle_copy)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("epsilon: ", "epsilon: 0", 1),
        lambda text: text.replace("one training image", "a person", 1),
        lambda text: text.replace("private: true\n", "private: true\n  epsilon: 0\n"),
        lambda text: text.replace("\n---\n", "\nprivacy:\n  epsilon: 1\n---\n", 1),
        lambda text: text.replace("\ntags:", "\nprivacy: {epsilon: 1}\ntags:", 1),
        lambda text: text.replace("\ntags:", '\n"privacy": {epsilon: 1}\ntags:', 1),
        lambda text: text.replace("\ntags:", "\nepsilon: 1\ntags:", 1),
        lambda text: text.partition("\n---\n")[2],
        lambda text: "",
    ],
)
def test_metadata_with_other_figures_are_found_out(bundle_copy, edit):
    """Even by someone who makes the sums anew."""
    path = bundle_copy / "README.md"
    before = path.read_text()
    path.write_text(edit(before))
    assert path.read_text() != before
    (bundle_copy / "SHA256SUMS").unlink()
    bundle.write_checksums(bundle_copy)
    (failure,) = verify(bundle_copy).failures
    assert failure.startswith("README.md does not say of privacy")


def test_a_release_without_a_card_is_in_order(bundle_copy):
    (bundle_copy / "README.md").unlink()
    (bundle_copy / "SHA256SUMS").unlink()
    bundle.write_checksums(bundle_copy)
    assert verify(bundle_copy).ok


@pytest.mark.slow
def test_licence_and_own_words(make_config, workdir, tmp_path):
    about = tmp_path / "about.md"
    about.write_text("Digits of the year 1996.\n\nAsk us: digits@example.org\n")
    config = make_config(release__license="cc-by-4.0", release__about=str(about))
    folder = release(config, workdir)
    assert metadata(folder)["license"] == "cc-by-4.0"
    text = (folder / "README.md").read_text()
    assert f"## About it\n\n{about.read_text()}" in text
    assert verify(folder).ok
    assert os.fsencode(tmp_path) not in (folder / "README.md").read_bytes()
    shutil.rmtree(folder)
    for fields, message in (
        ({"release__license": "my own\nprivacy:"}, "release.license is"),
        ({"release__about": "nowhere.md"}, "release.about is 'nowhere.md', which"),
    ):
        with pytest.raises(InputError, match=message):
            release(make_config(**fields), workdir)
    assert not (workdir / "release").exists()


def test_cards_of_other_kinds(read):
    manifest, stated, config = map(
        read, ("MANIFEST.json", "PRIVACY.json", "config.json")
    )
    reasons = {"private": False, "not_private": ["no noise"], "epsilon": "infinity"}
    text = card.card(manifest, stated | reasons, config)
    assert "**It is NOT PRIVATE** (no noise)" in text
    assert "epsilon: .inf\n" in text
    assert "may stand in for images" in text
    text = card.card(manifest, stated | reasons | {"public_data": "letters"}, config)
    assert "trained on public data (letters), none of which it protects" in text
    assert "Outside the guarantee" not in text
    group = {"unit_of_privacy": "one group, all training images with one value of name"}
    assert "training images of 1437 groups" in card.card(
        manifest, stated | group, config
    )
    assert "seen in a step" not in text
    part = {"selector": "lora:2", "parameters": 70, "adapters": 60, "of": 900}
    views = {"crop": 4, "flip": True, "count": 16}
    mechanism = stated["mechanism"] | {"trained": part, "views": views}
    text = card.card(manifest, stated | {"mechanism": mechanism}, config)
    assert "| trained of them | 70, 60 of them in adapters (lora:2) |" in text
    assert (
        "| seen in a step | 16 views of each image, cropped at random, 4 pixels beyond "
        "its edges and mirrored half the time |"
    ) in text
    names = [f"digit {label}" for label in range(10)]
    text = card.card(manifest | {"class_names": names}, stated, config)
    assert "| classes | 0 digit 0, 1 digit 1, 2 digit 2," in text
    manifest["model"] |= {
        "num_classes": 0,
        "condition": {"kind": "tokens", "length": 9, "vocabulary": 300},
    }
    manifest["emptied_in_config"] = ["data.captions.vocabulary"]
    text = card.card(manifest, stated, config)
    assert "pipeline_tag: text-to-image" in text
    assert 'model.config.data.captions.vocabulary = "FILE"' in text
    assert 'prompts=["a text", "another"]' in text
