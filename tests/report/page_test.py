import base64
import json
import math
import re
import shutil
import stat

import numpy as np
import pytest
from html_pages import Page

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    Ledger,
    Selection,
    Tuning,
    extend_plan,
    format_epsilon,
    read_ledger,
)
from dpdm_jax.privacy.lineage import Origin
from dpdm_jax.report import write_report
from dpdm_jax.sampling import images

_LOADING = ("src", "href", "xlink:href", "srcset", "poster", "action", "background")


@pytest.fixture
def report(writer):
    """Writes the report of the directory as it is now and reads it."""

    def write(*, private=True):
        return Page(write_report(writer.workdir, private=private))

    return write


@pytest.mark.slow
def test_all_parts(writer, report):
    writer.everything()
    page = report()
    record = read_ledger(writer.workdir / "privacy.json")
    spent = format_epsilon(record.epsilon_spent())
    for words in (
        f"Differentially private: ε = {spent}, δ = 0.0001",
        f"epsilon spent {spent} of a budget of 3.0000",
        "20 of 30 planned",
        "training images 1,437",
        "synthetic images 240",
        "a row for each of 10 classes; made after training step 20; sampler heun, 12 "
        "steps, guidance 0.5.",
        "One example is one training image.",
        "whose record is replaced by nothing in one of them (zero-out)",
        "Tossing a coin is right 50 % of the time",
        "People: the unit is one image",
        "Do not publish this file",
        "On a small network's features Do the images look alike",
        "Frechet distance fid_lenet Distance",
        "Lower is better.",
        "17.25 floor, real against real: 4.5",
        "0.007812 ± 0.002",
        "87.5 ± 3.1 % trained on real images: 96.9 ± 0.8 % trained on real images by "
        "DP-SGD at the same epsilon: 90.6 ± 1.6 % 2 trainings",
        "by pixels: 0.4844, 2 exact copies (1 among fresh images)",
        "samples: too few images to be sure",
        "Loss 0.8625 at step 20",
        "Mean gradient norm before clipping 1.25 at step 20; - - clipping bound C = 1",
        "Epsilon spent 2.0000 at step 20; - - budget = 3.0000",
        "Show training images: private, do not publish",
        "config.json: train",
        "batch_size 719",
        "noise_multiplier",
    ):
        assert words in page.text, words
    assert len(page.all("svg")) == 5
    assert "NOT PRIVATE" not in page.source
    assert "Problems" not in page.text
    # 10 classes of 10 images in two sets, and the neighbours.
    pictures = page.all("img")
    assert len(pictures) == 201
    for attrs, _ in pictures:
        kind, _, content = attrs["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(b"\x89PNG")


def test_order_of_the_page(writer, report):
    writer.everything()
    sections = [attrs["id"] for attrs, _ in report().all("section")]
    order = ["samples", "privacy", "metrics", "curves", "settings", "neighbours"]
    assert sections == order


def test_guess_is_never_understated(writer, report):
    writer.ledger(epsilon=math.log(3), accountant="pld", steps=30)
    record = read_ledger(writer.workdir / "privacy.json")
    (percent,) = re.findall(r"at most ([\d.]+) % of the time", report().text)
    e = math.exp(record.epsilon_spent())
    exact = 100 * (e + record.plan.delta) / (1 + e)
    assert exact <= float(percent) < exact + 0.0011


def test_training_images_are_behind_the_switch(writer, report):
    writer.everything()
    picture = writer.pictures()
    encoded = base64.b64encode(picture.read_bytes()).decode()
    page = report()
    (within,) = [within for attrs, within in page.all("img") if encoded in attrs["src"]]
    assert "details" in within
    assert not any("open" in attrs for attrs, _ in page.all("details"))


def test_private_parts_are_marked(writer, report):
    writer.everything()
    page = report()
    marked = [attrs["id"] for attrs, _ in page.all("section") if "class" in attrs]
    assert marked == ["metrics", "curves", "neighbours"]
    for title in ("Metrics", "Training", "Nearest neighbours"):
        assert f"{title} private" in page.text


def test_only_the_owner_can_read_private_parts(writer):
    writer.everything()
    mode = write_report(writer.workdir).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.slow
def test_public_page_does_not_depend_on_private_files(writer, report):
    writer.everything()
    public, private = report(private=False), report()
    writer.metrics(loss=7.0)
    writer.evaluation(fid_lenet=3.0, caveats=["other"])
    writer.pictures(seed=1)
    (writer.workdir / "evaluation" / "more.json").write_text("{")
    assert report(private=False).source == public.source
    assert report().source != private.source
    shutil.rmtree(writer.workdir / "evaluation")
    (writer.workdir / "metrics.jsonl").unlink()
    assert report(private=False).source == public.source


def test_public_page_holds_nothing_private(writer, report):
    writer.everything()
    encoded = base64.b64encode(writer.pictures().read_bytes()).decode()
    numbers = ("17.25", "0.8625", "4321.5", "4322", "96.9", "0.4844", "0.0078")
    private, public = report(), report(private=False)
    assert encoded in private.source
    for secret in (encoded, *numbers, "too few images", "Do not publish", "<svg"):
        assert secret not in public.source, secret
    assert sum(number in private.text for number in numbers) >= 5
    assert "were left out" in public.text
    sections = [attrs["id"] for attrs, _ in public.all("section")]
    assert sections == ["samples", "privacy", "settings", "left-out"]
    assert len(public.all("img")) == 200


@pytest.mark.parametrize("labels", ["ann/labels.npy", "/home/ann/labels.npy"])
def test_public_page_names_no_places(writer, report, labels):
    writer.config(name="mine")
    config = json.loads((writer.workdir / "config.json").read_text())
    config["data"]["path"] = "ann/patients"
    config["data"]["name"] = "/home/ann/records"
    config["release"]["tuning_runs"] = "ann/runs"
    config["sample"]["labels"] = labels
    (writer.workdir / "config.json").write_text(json.dumps(config))
    writer.ledger()
    digest = "0123abcd" * 8
    writer.samples(labels=labels, labels_sha256=digest, made_in="/home/ann/images")
    private, public = report(), report(private=False)
    for place in ("ann/", "my_run", digest):
        assert place in private.source
        assert place not in public.source
    assert "Their classes were read from a file" in public.text
    assert public.text.startswith("mine:")


def test_public_page_has_no_images_of_steps_that_are_not_counted(writer, report):
    writer.ledger()
    writer.samples(step=10**6)
    assert "1000000" in report().source
    with pytest.raises(
        InputError, match=r"'samples' of .* are of step 1000000 and its"
    ):
        report(private=False)


def test_public_page_of_a_run_without_config(writer, report):
    writer.ledger()
    assert report().text.startswith("my_run:")
    assert report(private=False).text.startswith("A diffusion model:")


def test_where_the_weights_come_from(writer, report):
    writer.ledger(origin=Origin("release", "glyphs", "a" * 64, "fonts of matplotlib"))
    text = report(private=False).text
    assert "training began with release glyphs (fonts of matplotlib)" in text
    assert "Where its weights come from Lineage: training began with weights" in text
    (writer.workdir / "privacy.json").unlink()
    writer.ledger()
    text = report(private=False).text
    assert "training began with random weights" in text
    assert "Where its weights come from" not in text


def test_tuning_is_counted(writer, report):
    writer.ledger()
    record = read_ledger(writer.workdir / "privacy.json")
    tuning = Tuning(selection=Selection(10.0, 1.0))
    page = Page(write_report(writer.workdir, private=False, tuning=tuning))
    assert f"ε = {format_epsilon(tuning.epsilon(record))}," in page.text
    assert tuning.epsilon(record) > record.epsilon_spent()
    assert "More tuning:" in page.text


def test_the_two_pages_are_different_files(writer):
    writer.everything()
    private = write_report(writer.workdir)
    public = write_report(writer.workdir, private=False)
    assert private.name == "report.html"
    assert public.name == "report_public.html"
    assert sorted(p.name for p in writer.workdir.glob("*report*")) == [
        "report.html",
        "report_public.html",
    ]


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"epsilon": math.inf}, "NOT PRIVATE", "epsilon is infinite"),
        ({"fixed_keys": True}, "NOT PRIVATE", "the keys are fixed"),
        (None, "PRIVACY UNKNOWN", "there is no privacy.json"),
    ],
)
def test_runs_without_a_guarantee(writer, report, changes, verdict, reason):
    writer.config()
    writer.samples()
    if changes is not None:
        writer.ledger(**changes)
    page = report()
    banners = [a["class"] for a, _ in page.all("div") if "banner" in str(a)]
    assert banners == ["banner danger"]
    assert page.text.startswith(f"digits: {verdict} {verdict}")
    assert reason in page.text
    for claim in ("Differentially private", "of the time", "ε", "epsilon spent"):
        assert claim not in page.text
    with pytest.raises(InputError, match=rf"no privacy guarantee \({reason}.*allowed"):
        write_report(writer.workdir, private=False)
    assert not (writer.workdir / "report_public.html").exists()


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        (("ledger",), "No samples yet"),
        (("config", "ledger", "samples"), "No evaluation yet"),
        (("config", "ledger", "samples"), "there is no metrics.jsonl"),
        (("config", "ledger", "evaluation"), "No pictures of nearest neighbours"),
        (("config", "samples", "metrics"), "there is no privacy.json"),
        (("config",), "No samples yet"),
    ],
)
def test_missing_parts_are_said(writer, report, parts, missing):
    for part in parts:
        getattr(writer, part)()
    assert missing in report().text


def test_a_run_in_training(writer, report):
    writer.config()
    writer.ledger(steps=10)
    writer.metrics(steps=(10,))
    folder = writer.workdir / "samples" / "snapshots"
    folder.mkdir(parents=True)
    writer.pictures().rename(folder / "step_0000010.png")
    page = report()
    assert "10 of 30 planned: training goes on, or was stopped" in page.text
    assert "samples/snapshots/step_0000010.png" in page.text
    assert len(page.all("img")) == 1


def test_nothing_authorised_yet(writer, report):
    writer.ledger(steps=0)
    assert "ε = 0.0000" in report().text


def test_unlabelled_samples(writer, report):
    writer.config()
    writer.ledger()
    writer.samples(num_classes=0, count=64)
    page = report()
    assert "The first images of 64, without labels" in page.text
    assert len(page.all("img")) == 50


def test_large_images_are_not_drawn_pixel_by_pixel(writer, report):
    writer.ledger()
    writer.samples("small", side=32, count=10)
    writer.samples("wide", side=64, count=10)
    grids = [
        attrs["class"]
        for attrs, _ in report().all("div")
        if attrs.get("class", "").startswith("samples")
    ]
    assert grids == ["samples small", "samples"]


def test_labels_from_a_file_are_cautioned_against(writer, report):
    writer.ledger()
    writer.samples(labels="mine.npy")
    assert "Their classes were read from a file" in report(private=False).text


def test_prompts_are_shown_and_cautioned_against(writer, report):
    writer.config()
    writer.ledger()
    made = writer.samples(num_classes=0, count=4)
    asked = np.array(["a <b>dog</b>", "a cat"])[np.arange(4) % 2]
    path = writer.workdir / "samples" / "samples" / "samples.npz"
    images.write_npz(path, made, None, asked)
    for private in (True, False):
        page = report(private=private)
        assert "a row for each of 2 prompts" in page.text
        assert "a <b>dog</b>" in page.text
        assert "outside the guarantee: make sure that none is a caption" in page.text


def test_classes_have_the_names_that_the_config_states(writer, report):
    names = ("<b>no<.b>", *map(str, range(1, 10)))
    writer.config(data={"class_names": names})
    writer.ledger()
    writer.samples(num_classes=10)
    page = report(private=False)
    assert "0 <b>no<.b>" in page.text
    assert "synthetic images of class 0 <b>no<.b>" in str(page.all("div"))


def test_results_of_another_kind_are_said(writer, report):
    writer.ledger()
    (writer.workdir / "evaluation").mkdir()
    (writer.workdir / "evaluation" / "old.json").write_text('{"results": []}')
    words = "evaluation/old.json holds no metric that this page knows."
    assert words in report().text


def test_problems_are_said(writer, report):
    writer.everything()
    (writer.workdir / "config.json").write_text("{")
    page = report()
    assert "Problems config.json cannot be read." in page.text
    assert page.text.startswith("my_run:")


_ODD = '</style><script>alert("1")</script>&amp;{{ 7 * 7 }}'


def test_odd_names_stay_text(writer, report):
    writer.config(name=_ODD)
    writer.ledger()
    odd = _ODD.replace("/", "|")
    writer.samples(odd, sampler={"name": _ODD}, **{_ODD: _ODD})
    writer.samples("b" + odd)
    writer.evaluation(odd, caveats=[_ODD], details={_ODD: [_ODD]}, **{_ODD: _ODD})
    writer.pictures(odd)
    with open(writer.workdir / "metrics.jsonl", "w") as file:
        file.write(json.dumps({"step": 1, _ODD: 1.0}) + "\n")
    page = report()
    assert page.all("script") == []
    assert len(page.all("style")) == 1
    (heading,) = re.findall(r"<h1>(.*?)</h1>", page.source)
    assert "<" not in heading
    assert page.text.count(_ODD) >= 8


def test_nothing_is_loaded(writer, report):
    writer.everything()
    for page in (report(), report(private=False)):
        tags = {tag for tag, _, _ in page.elements}
        assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
        for tag, attrs, _ in page.elements:
            for name, value in attrs.items():
                assert not name.startswith("on")
                if name in _LOADING:
                    assert value.startswith(("data:image/png;base64,", "#")), tag
        for target in re.findall(r"url\(([^)]*)\)|@import", page.source):
            assert target.startswith("#")
        (policy,) = [a["content"] for a, _ in page.all("meta") if "http-equiv" in a]
        assert policy.startswith("default-src 'none';")


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(writer):
    writer.everything()
    first = write_report(writer.workdir).read_bytes()
    assert write_report(writer.workdir).read_bytes() == first
    hidden = [p.name for p in writer.workdir.iterdir() if p.name.startswith(".")]
    assert hidden == []


def test_no_run_directory(tmp_path):
    with pytest.raises(InputError, match="is no run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_extended_run_shows_each_phase_and_the_total(writer, report):
    writer.config()
    writer.ledger(steps=30)
    path = writer.workdir / "privacy.json"
    ledger = Ledger(path, read_ledger(path))
    ledger.extend(extend_plan(ledger.plan, num_steps=10, epsilon=4.0))
    ledger.authorize(35)
    total = format_epsilon(ledger.epsilon_spent())
    page = report(private=False)
    for words in (
        f"Differentially private: ε = {total}, δ = 0.0001",
        f"epsilon spent {total} of a budget of 4.0000",
        "training steps 35 of 40 planned",
        "Phase 1: 30 steps at noise multiplier",
        "Phase 2: 10 steps at noise multiplier",
        f"{format_epsilon(ledger.plan.epsilon)} of a budget of 4.0000",
    ):
        assert words in page.text, words
