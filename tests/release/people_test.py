"""Where the unit is a person, plan, ledger, statement, report and release say so."""

import json
import shutil

import numpy as np
import pytest

from dpdm_jax import planning
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    PrivacyPlan,
    make_statement,
    read_ledger,
    statement_of,
)
from dpdm_jax.privacy.lineage import Origin
from dpdm_jax.release import __main__ as command
from dpdm_jax.release import bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify
from dpdm_jax.report.page import write_report
from dpdm_jax.training import loop

pytestmark = pytest.mark.slow  # all are of one run

PEOPLE, IMAGES = 12, 50
UNIT = "one group, all training images with one value of patient"


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory):
    """A config of people, its run directory and its release. Read-only."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    np.savez(
        folder / "train.npz",
        images=rng.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8),
        labels=rng.integers(0, 10, IMAGES),
        patient=np.arange(IMAGES) % PEOPLE,
    )
    config = make_config(
        data__source="npz",
        data__path=str(folder),
        data__num_examples=0,
        data__group="patient",
        diffusion__parameterization="edm_moments",
        privacy__moments_noise_multiplier=5.0,
        train__images_per_group=3,
        train__batch_size=4,
        train__microbatch_size=4,
        train__num_steps=2,
    )
    workdir = folder / "run"
    loop.train(config, workdir)
    return config, workdir, release(config, workdir)


def words(text):
    return " ".join(text.split())


SENTENCES = (
    f"equal but for {UNIT}, which are replaced by nothing in one of them (zero-out)",
    "The number of groups, the sampling probability, the steps and the divisor are",
    f"Data: training images of {PEOPLE} groups. A group has all images with one value "
    "of patient.",
    "2 queries of all images measured means and spreads of the classes. A group "
    "contributes one vector, the mean over its images, of L2 norm at most 1 to each;",
    "each group enters each step independently with probability q = 0.3333333333333333",
    "no sampled group is dropped. Where a group enters, up to 3 of its images do, "
    "drawn anew for each step.",
    "a group contributes one vector to a step, the average over its images and their "
    "noise draws (K = 2) clipped to an L2 norm of at most C = 1.0.",
    "Divisor: the sum is divided by the constant 4.",
    "Public facts: the number of groups, the images' size, the classes and all",
    f"People: the unit is {UNIT}, as the data has it. Someone who appears in images of "
    "another group, too, is protected less.",
)


def test_the_statement_speaks_of_people(run):
    _, workdir, _ = run
    record = read_ledger(workdir / "privacy.json")
    text = words(statement_of(record))
    for sentence in SENTENCES:
        assert sentence in text, sentence
    for of_images in ("one training image,", "training images, their", "one image;"):
        assert of_images not in text
    plan = record.plan
    assert plan.num_examples == PEOPLE
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_release_says_it_and_verifies(run, capsys):
    _, _, folder = run
    assert verify(folder).failures == ()
    assert command.main(["verify", str(folder)]) == 0
    assert f"(PLD); the unit is {UNIT}." in capsys.readouterr().out
    stated = bundle.read_json(folder, bundle.PRIVACY)
    assert stated["unit_of_privacy"] == UNIT
    assert stated["mechanism"]["group"] == {"column": "patient", "images": 3}
    assert stated["mechanism"]["num_examples"] == PEOPLE
    config = bundle.read_json(folder, bundle.CONFIG)
    assert config["data"]["group"] == "patient"
    text = words((folder / bundle.PRIVACY_TEXT).read_text())
    assert all(sentence in text for sentence in SENTENCES)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        (bundle.PRIVACY, "unit_of_privacy", "states unit_of_privacy 'one training im"),
        (bundle.CONFIG, "images_per_group", "gives unit 'group by patient (4 images"),
        (bundle.CONFIG, "group", "data.group is ''; allowed: 1, or"),
    ],
)
def test_another_unit_than_the_ledgers_is_noticed(run, tmp_path, file, change, says):
    folder = shutil.copytree(run[2], tmp_path / "bundle")
    content = json.loads((folder / file).read_text())
    if file == bundle.PRIVACY:
        content[change] = "one training image"
    elif change == "group":
        content["data"]["group"] = ""
    else:
        content["train"][change] = 4
    (folder / file).write_text(json.dumps(content))
    assert any(says in failure for failure in verify(folder).failures)


def test_what_begins_with_their_weights_says_whom_it_protects(run):
    record = read_ledger(run[1] / "privacy.json")
    origin = Origin("run", "clinic", 64 * "a", "", record.to_dict())
    text = words(make_statement(record.plan, 1, origin=origin).to_text())
    assert f"(PLD), for {UNIT}. It is stated that no one is in both data sets." in text


def test_the_report_speaks_of_people(run):
    _, workdir, _ = run
    page = words(write_report(workdir, private=False).read_text())
    assert f"The model was trained on images of {PEOPLE} groups." in page
    assert f"<strong>One example is {UNIT}.</strong>" in page
    assert "whether a given group's images were among them" in page
    assert f"<dt>groups of training images</dt><dd>{PEOPLE}</dd>" in page
    assert "One example is one training image" not in page


def test_the_plan_counts_people(run):
    config, workdir, _ = run
    report = planning.plan_report(config, estimate_cost=False)
    assert report["num_examples"] == PEOPLE
    assert report["unit_of_privacy"] == UNIT
    assert report["unit"] == {"column": "patient", "images": 3}
    # Stated, their number needs no data.
    config = config.copy_and_resolve_references()
    config.data.update(path="nowhere", num_examples=PEOPLE)
    assert planning.plan_report(config, estimate_cost=False) == report
    # More images of a group are more work.
    dearer = planning.plan_report(config)
    config.train.images_per_group = 6
    ratio = planning.plan_report(config)["flops_per_step"] / dearer["flops_per_step"]
    assert ratio == pytest.approx(2)
    config.data.update(path=str(workdir.parent), num_examples=IMAGES)
    with pytest.raises(InputError, match="50 but the training data has 12 groups by"):
        loop.train(config, workdir.parent / "other")


def test_delta_is_held_against_the_number_of_people(run):
    config, _, _ = run
    config = config.copy_and_resolve_references()
    config.privacy.delta = 0.09  # below 1 / 50 it is not, nor below 1 / 12
    with pytest.warns(UserWarning, match=r"not below 1/12 \(one over the number of gr"):
        planning.plan_report(config, estimate_cost=False)
