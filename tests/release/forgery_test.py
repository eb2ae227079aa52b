"""What a forger changes, with every sum and checksum made anew, is noticed."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from dpdm_jax import json_values, load_release
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import ledger as ledger_lib
from dpdm_jax.release import __main__ as command
from dpdm_jax.release import bundle, published, statement_1
from dpdm_jax.release.verify import verify
from experiments.mnist_cpu.runs import RELEASES


def resum(folder: pathlib.Path) -> tuple[str, ...]:
    """Makes the sums anew; returns what verify says."""
    (folder / "SHA256SUMS").unlink()
    bundle.write_checksums(folder)
    return verify(folder).failures


def rewrite(folder: pathlib.Path, name: str, change) -> None:
    """Changes a JSON file in a release."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


def reseal(ledger) -> None:
    """Makes the checksum of a ledger anew."""
    del ledger["checksum"]
    ledger["checksum"] = ledger_lib._checksum(ledger)


@pytest.fixture
def old_copy(tmp_path) -> pathlib.Path:
    """A copy of a release of format 1 to tamper with."""
    return pathlib.Path(shutil.copytree(RELEASES / "mnist_eps0.2", tmp_path / "old"))


@pytest.fixture(params=["today's format", "format 1"])
def either_copy(request) -> pathlib.Path:
    """A copy of a release of either format."""
    name = "old_copy" if request.param == "format 1" else "bundle_copy"
    return request.getfixturevalue(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# Differentially private: epsilon = 0.0100\n\nOnce:\n\n" + text,
        lambda text: text + "\nIn fact epsilon = 0.0100.\n",
        lambda text: text.replace("| training | ", "| training, sigma = 1000 | "),
        lambda text: text.replace("; the budget is ", "; the budget was "),
        lambda text: text.replace("sigma = ", "sigma = 1"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("- jax ", "- jax 9"),
        lambda text: text[: text.index("Outside this guarantee")],
        lambda text: "",
    ],
)
def test_a_text_that_says_something_else(either_copy, change):
    path = either_copy / "PRIVACY.md"
    text = path.read_bytes().decode()
    assert change(text) != text
    path.write_bytes(change(text).encode())
    failures = resum(either_copy)
    assert [f for f in failures if f.startswith("PRIVACY.md does not say ")]
    assert all("\n" not in f for f in failures)


def test_a_text_of_another_epsilon_fails_whatever_version_computed_it(bundle_copy):
    def another_version(statement):
        statement["software"]["accountant"] = "dp-accounting 0.1"

    rewrite(bundle_copy, "PRIVACY.json", another_version)
    path = bundle_copy / "PRIVACY.md"
    path.write_text(
        path.read_text().replace("dp-accounting 0.6.0", "dp-accounting 0.1")
    )
    assert resum(bundle_copy) == ()
    stated = json.loads((bundle_copy / "PRIVACY.json").read_text())["epsilon"]
    path.write_text(path.read_text().replace(f"epsilon = {stated},", "epsilon = 0.1,"))
    (failure,) = resum(bundle_copy)
    assert failure.startswith("PRIVACY.md does not say 'Differentially private: eps")


def test_a_planned_epsilon_that_no_mechanism_gives(bundle_copy):
    def change(statement):
        ledger = statement["ledgers"][0]
        ledger["plan"]["epsilon"] = 0.001
        reseal(ledger)
        statement["epsilon_planned"] = "0.0010"

    rewrite(bundle_copy, "PRIVACY.json", change)
    assert any("plan.epsilon is 0.001; its mech" in f for f in resum(bundle_copy))


def test_practically_no_noise_is_not_private(bundle_copy):
    def change(statement):
        ledger = statement["ledgers"][0]
        for part in (ledger["plan"], ledger["events"][-1]):
            part["noise_multiplier"] = 1e-7
        reseal(ledger)

    rewrite(bundle_copy, "PRIVACY.json", change)
    assert any("practically without noise" in f for f in resum(bundle_copy))


def test_views_and_parameters_that_the_config_has_not(bundle_copy):
    def change(statement):
        ledger = statement["ledgers"][0]
        views = {"count": 4, "crop": 0, "flip": True}
        for fields in (ledger["plan"], statement["mechanism"]):
            fields |= {"views": views, "parameters": 7}
        reseal(ledger)

    rewrite(bundle_copy, "PRIVACY.json", change)
    failures = " ".join(resum(bundle_copy))
    assert "views 'None'; the ledger has '4 views of each image, mirror" in failures
    assert "; the ledger has '7'." in failures


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("PRIVACY.json", '"delta":', '"delta": 1e-12, "delta":'),
        ("PRIVACY.json", '"authorized_steps":', '"authorized_steps": 0, "auth…":'),
        ("MANIFEST.json", '"step":', '"step": 0, "step":'),
        ("config.json", '"epsilon":', '"epsilon": 0.1, "epsilon":'),
        ("config.json", '"seed": 0', '"seed": 1e999'),
    ],
)
def test_ambiguous_json(either_copy, name, old, new):
    path = either_copy / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new.replace("auth…", "authorized_steps"), 1))
    failures = resum(either_copy)
    assert any("is there twice" in f or "out of range" in f for f in failures)
    assert all("\n" not in f for f in failures)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "PRIVACY.json",
            lambda v: v.update(comment="epsilon is 0.01"),
            "states comment",
        ),
        (
            "PRIVACY.json",
            lambda v: v["software"].update(x="1\n# epsilon = 0.01"),
            "of the software is",
        ),
        ("PRIVACY.json", lambda v: v["outside"].pop(), "states outside"),
        ("PRIVACY.json", lambda v: v["cautions"].append("none"), "states cautions"),
        ("MANIFEST.json", lambda v: v.update(epsilon=0.01), "unknown field 'epsilon'"),
        ("MANIFEST.json", lambda v: v.update(class_names=["x"]), "have other names"),
        ("MANIFEST.json", lambda v: v["model"].update(x=1), "unknown field 'model.x'"),
        ("MANIFEST.json", lambda v: v.update(step=10**400), "step is 1000"),
        ("MANIFEST.json", lambda v: v.update(step=-1), "step is -1"),
        ("MANIFEST.json", lambda v: v.update(num_parameters=0), "num_parameters is 0"),
        ("MANIFEST.json", lambda v: v.update(weights="raw"), "weights is 'raw'"),
        (
            "MANIFEST.json",
            lambda v: v.update(name="x\n\nepsilon = 0.01"),
            "name is 'x",
        ),
        ("config.json", lambda v: v.update(note={"x": 1}), "unknown field 'note'"),
        (
            "config.json",
            lambda v: v["privacy"].update(claim=0.01),
            "unknown field 'privacy.claim'",
        ),
        ("config.json", lambda v: v.update(name="other"), "gives the name 'other'"),
    ],
)
def test_fields_that_are_unknown_or_out_of_range(either_copy, name, change, message):
    rewrite(either_copy, name, change)
    failures = resum(either_copy)
    assert any(message in f for f in failures), failures
    assert all("\n" not in f for f in failures)
    if message.startswith("unknown field"):
        with pytest.raises(InputError, match=message):
            load_release(either_copy)


def test_a_place_in_a_released_config(bundle_copy):
    rewrite(bundle_copy, "config.json", lambda v: v["data"].update(path="patients"))
    assert "config.json: data.path is not empty." in resum(bundle_copy)


def of_another_run(folder: pathlib.Path) -> None:
    path = folder / "params.safetensors"
    arrays = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file({n: a + 1 for n, a in arrays.items()}, path)


def other_samples(folder: pathlib.Path) -> None:
    with np.load(folder / "samples.npz") as archive:
        arrays = dict(archive)
    np.savez(folder / "samples.npz", **arrays | {"images": arrays["images"][::-1]})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("params.safetensors", of_another_run),
        ("samples.npz", other_samples),
        (
            "config.json",
            lambda f: rewrite(f, "config.json", lambda v: v["train"].update(b1=0.1)),
        ),
        (
            "MANIFEST.json",
            lambda f: rewrite(f, "MANIFEST.json", lambda v: v.update(step=3)),
        ),
    ],
)
def test_a_file_of_another_run_is_bound_to_another_statement(bundle_copy, name, change):
    change(bundle_copy)
    failures = resum(bundle_copy)
    assert [f for f in failures if f"{name} is not the file that PRIVACY.json" in f]


def test_files_that_the_statement_does_not_name_or_that_are_gone(bundle_copy):
    rewrite(bundle_copy, "PRIVACY.json", lambda s: s["files"].update(x="0" * 64))
    assert any(f.startswith("x is not the file") for f in resum(bundle_copy))
    rewrite(bundle_copy, "PRIVACY.json", lambda s: s.pop("files"))
    assert any("states files '(absent)'" in f for f in resum(bundle_copy))


def test_a_newer_release_cannot_pass_for_an_older_one(bundle_copy):
    """Unless all of it is forged, and then it says what it does not cover."""

    def older(statement):
        del statement["files"], statement["accounted_relation"]
        statement["format"] = statement_1.FORMAT
        statement["neighbouring_relation"] = "add_or_remove_one"

    rewrite(bundle_copy, "PRIVACY.json", older)
    failures = resum(bundle_copy)
    assert any("in a release of the format 'dpdm_jax release 2'" in f for f in failures)
    rewrite(bundle_copy, "MANIFEST.json", lambda m: m.update(format=bundle.FORMATS[0]))
    assert any("PRIVACY.md does not say" in f for f in resum(bundle_copy))


def test_an_older_release_is_accepted_and_says_what_is_not_covered(old_copy, capsys):
    assert command.main(["verify", str(old_copy)]) == 0
    printed = capsys.readouterr().out
    assert "of format 1, whose statement does not name its files" in printed
    of_another_run(old_copy)
    assert resum(old_copy) == ()  # this is what is not covered


def test_every_field_of_a_config_is_published_or_not_on_purpose(make_config):
    """A new field of these groups must be listed, and emptied if it names a place."""
    values = json_values.encode(make_config().to_dict())
    kept = {name.partition(".")[0] for name in published.FIELDS} - {""}
    groups = {n: v for n, v in values.items() if not isinstance(v, dict) or n in kept}
    # Prompts may be private captions.
    on_purpose = ["evaluate.prompt_classes", "sample.prompt", "sample.prompts"]
    assert sorted(published.unknown_fields(groups)) == on_purpose
    left_out = {"extend", "checkpoint", "log", "release", "audit", "report"}
    left_out |= {"select", "learning_curve"}  # of classifiers, not of the model
    assert set(values) - set(groups) == left_out | {"sampler_presets"}


def test_presets_are_published_like_the_sampler():
    preset = {"name": "ddim_eta", "ddim_eta": {"eta": 0.5}, "grid": "ddpm"}
    values = {"sampler_presets": {"quick": preset}}
    assert published.unknown_fields(values) == []
    assert published.clean_config(values) == (values, [])
    surprises = {"x": 1, "data": {"path": "p"}, "ddim_eta": {"y": 2}, "ddpm": 3}
    values = {"sampler_presets": {"quick": surprises, "z": 4}}
    unknown = ("quick.x", "quick.data", "quick.ddim_eta.y", "quick.ddpm", "z")
    assert published.unknown_fields(values) == [
        f"sampler_presets.{name}" for name in unknown
    ]
    assert published.clean_config(values) == (
        {"sampler_presets": {"quick": {"ddim_eta": {}}}},
        [],
    )


def test_fields_that_name_places_are_emptied_however_they_are_written(make_config):
    values = json_values.encode(
        make_config(
            data__path="patients", evaluate__inception_weights="mine/w.pth"
        ).to_dict()
    )
    cleaned, emptied = published.clean_config(values | {"surprise": {"x": "patients"}})
    assert emptied == ["data.path", "evaluate.inception_weights"]
    assert "patients" not in json.dumps(cleaned)
    assert "w.pth" not in json.dumps(cleaned)


def test_a_released_name_is_one_line_and_no_claim(make_config):
    config = make_config()
    trained = json_values.encode(config.to_dict()) | {"name": "x\n# epsilon = 0.01 |"}
    values, _ = published.published_config(trained, config)
    assert values["name"] == "x__ epsilon _ 0.01 _"
    pattern, _ = published.NAME
    assert pattern.fullmatch(values["name"])
