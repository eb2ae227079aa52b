import base64
import json
import math
import shutil
import stat

import pytest
from html_pages import Page

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import Tuning, format_epsilon, read_ledger
from dpdm_jax.report import write_comparison
from dpdm_jax.report.curves import MAX_CURVES


@pytest.fixture
def runs(writer, tmp_path):
    """Two runs, of which the second has another budget, and other settings."""
    writer.everything()
    other = type(writer)(tmp_path / "other_run")
    other.workdir.mkdir()
    other.config(name="other")
    other.ledger(epsilon=2.0)
    other.samples()
    other.metrics(loss=0.5)
    other.evaluation(fid_lenet=9.5, mlp=0.5, memorisation=0.25)
    path = other.workdir / "config.json"
    config = json.loads(path.read_text())
    config["train"]["learning_rate"] = 0.125
    config["data"]["path"] = "/home/ann/patients"
    path.write_text(json.dumps(config))
    return [writer, other]


def compare(runs, *, private=True):
    folders = [run.workdir for run in runs]
    return Page(write_comparison(folders, folders[0], private=private))


@pytest.mark.slow
def test_all_parts(runs):
    page = compare(runs)
    ledgers = [read_ledger(run.workdir / "privacy.json") for run in runs]
    spent = [format_epsilon(ledger.epsilon_spent()) for ledger in ledgers]
    together = Tuning((ledgers[1],)).epsilon(ledgers[0])
    assert together > ledgers[0].epsilon_spent()
    for words in (
        "2 runs compared digits other",
        f"epsilon spent ε = {spent[0]} ε = {spent[1]}",
        "budget 3.0000 2.0000",
        "one example is one training image one training image",
        "steps taken 20 of 30 20 of 30",
        f"they spend ε = {format_epsilon(together)} together, at δ = 0.0001",
        "train.learning_rate 0.003 0.125",
        "17.25 9.5",
        "87.5 ± 3.1 % 50.0 ± 3.1 %",
        "Training private",
        "Mean gradient norm before clipping",
    ):
        assert words in page.text, words
    assert "train.batch_size" not in page.text  # equal in both
    best = [attrs for attrs, _ in page.all("b") if attrs.get("class") == "best"]
    assert len(best) == 2  # KID is equal in both, and of copying 0.5 is best
    assert len(page.all("svg")) == 5
    assert len(page.all("img")) == 200
    sections = [attrs["id"] for attrs, _ in page.all("section")]
    assert sections == ["samples", "budgets", "settings", "metrics", "curves"]


def test_only_the_owner_can_read_private_parts(runs):
    folders = [run.workdir for run in runs]
    path = write_comparison(folders, folders[1])
    assert path == folders[1] / "comparison.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_public_page_holds_nothing_private_and_names_no_places(runs):
    picture = base64.b64encode(runs[0].pictures().read_bytes()).decode()
    private, public = compare(runs), compare(runs, private=False)
    for secret in ("17.25", "9.5", "0.8625", "<svg", "Do not publish", picture):
        assert secret not in public.source, secret
    for place in ("patients", "my_run", "other_run"):
        assert place not in public.source, place
    assert "patients" in private.source
    for run in runs:  # and none of it was read
        shutil.rmtree(run.workdir / "evaluation")
        (run.workdir / "metrics.jsonl").write_text("{")
    assert compare(runs, private=False).source == public.source


@pytest.mark.parametrize("private", [True, False])
def test_what_samples_were_asked_for_by_is_cautioned_against(runs, private):
    shutil.rmtree(runs[1].workdir / "samples")
    runs[1].samples(labels="mine.npy")
    page = compare(runs, private=private)
    assert page.text.count("Their classes were read from a file") == 1


def test_runs_of_one_name_are_told_apart(runs):
    runs[1].config()
    assert "2 runs compared my_run other_run" in compare(runs).text
    assert "2 runs compared 1. digits 2. digits" in compare(runs, private=False).text


def test_a_run_of_which_little_is_known(runs):
    (runs[1].workdir / "metrics.jsonl").unlink()
    shutil.rmtree(runs[1].workdir / "evaluation")
    shutil.rmtree(runs[1].workdir / "samples")
    page = compare(runs)
    assert "17.25 -" in page.text
    assert "No samples yet" in page.text
    assert not [a for a, _ in page.all("b") if a.get("class") == "best"]


def test_runs_without_a_guarantee(runs):
    (runs[1].workdir / "privacy.json").unlink()
    runs[1].ledger(epsilon=math.inf)
    page = compare(runs)
    assert "NOT PRIVATE: other epsilon is infinite" in page.text
    assert "together" not in page.text
    with pytest.raises(InputError, match="no privacy guarantee"):
        compare(runs, private=False)
    assert not (runs[0].workdir / "comparison_public.html").exists()


def test_what_cannot_be_compared(runs):
    first = runs[0].workdir
    with pytest.raises(InputError, match=f"1 run directories.*2 to {MAX_CURVES}"):
        write_comparison([first], first)
    with pytest.raises(InputError, match="compared with itself"):
        write_comparison([first, first / "." / ".." / first.name], first)
    with pytest.raises(InputError, match="is no run directory"):
        write_comparison([first, first / "samples"], first)
    assert not (first / "comparison.html").exists()
