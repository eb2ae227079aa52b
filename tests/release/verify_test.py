"""Tampering with a release is noticed."""

import copy
import json
import math
import pathlib
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from commands import CHECKOUT

from dpdm_jax import files, settings
from dpdm_jax.privacy import (
    format_epsilon,
    read_ledger,
)
from dpdm_jax.release import __main__ as command
from dpdm_jax.release import bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import statement_failures, verify
from dpdm_jax.training.extension import extend
from dpdm_jax.training.loop import train


@pytest.mark.slow
def test_an_intact_release(released):
    outcome = verify(released)
    assert outcome.failures == ()
    assert outcome.to_dict()["epsilon"] == outcome.statement["epsilon"]


def test_a_run_directory_is_told_from_a_release(tmp_path, capsys):
    (tmp_path / "privacy.json").write_text("{}")
    assert command.main(["verify", str(tmp_path)]) == 1
    (sentence,) = capsys.readouterr().out.splitlines()
    assert sentence == (
        f"{tmp_path} is a run directory; allowed: a release, such as "
        f"{tmp_path / 'release'}, which --mode=release makes."
    )


@pytest.mark.slow
def test_files_that_cannot_be_read_are_a_failure(bundle_copy, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256", refused)
    (failure,) = verify(bundle_copy).failures
    assert failure.startswith(f"{bundle_copy} cannot be read (")


@pytest.mark.slow
def test_every_changed_file_is_noticed(bundle_copy):
    for name in bundle.file_names(bundle_copy):
        path = bundle_copy / name
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        assert not verify(bundle_copy).ok, name
        path.write_bytes(kept[: len(kept) // 2])
        assert not verify(bundle_copy).ok, name
        path.write_bytes(b"")
        assert not verify(bundle_copy).ok, name
        path.unlink()
        (failure, *_) = verify(bundle_copy).failures
        assert f"{name} is missing" in failure
        path.write_bytes(kept)
    assert verify(bundle_copy).ok


def test_extra_files_and_links_are_noticed(bundle_copy, tmp_path):
    extra = bundle_copy / "evaluation" / "x.json"
    extra.parent.mkdir()
    extra.write_text("{}")
    assert any("is extra" in f for f in verify(bundle_copy).failures)
    extra.unlink()
    (tmp_path / "config.json").write_bytes((bundle_copy / "config.json").read_bytes())
    (bundle_copy / "config.json").unlink()
    (bundle_copy / "config.json").symlink_to(tmp_path / "config.json")
    assert verify(bundle_copy).failures == ("config.json is not a regular file.",)


def leaves(value, path=()):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1 if value == int(value) else value * 1.0001
    return "1.2345" if re.fullmatch(r"[\d.]+", value) else None


def test_every_changed_number_of_the_statement_is_noticed(released):
    """With the sums made anew, so that only the meaning can tell."""
    stated = json.loads((released / "PRIVACY.json").read_text())
    manifest = json.loads((released / "MANIFEST.json").read_text())
    files = stated["files"]
    assert statement_failures(stated, manifest, [], files) == []
    tried = 0
    for path, value in leaves(stated):
        new = None if value is None else changed(value)
        if new is None or path[0] == "software":
            continue
        tampered = copy.deepcopy(stated)
        node = tampered
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = new
        try:
            failures = statement_failures(tampered, manifest, [], files)
        except ValueError as e:
            failures = [str(e)]
        assert failures, path
        tried += 1
    assert tried >= 40


def rewrite(folder: pathlib.Path, name: str, change) -> tuple[str, ...]:
    """Changes a JSON file and makes the sums anew; returns what verify says."""
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))
    (folder / "SHA256SUMS").unlink()
    bundle.write_checksums(folder)
    return verify(folder).failures


def test_a_smaller_epsilon_in_a_freshly_summed_release(bundle_copy):
    failures = rewrite(
        bundle_copy, "PRIVACY.json", lambda s: s.update(epsilon="0.1000")
    )
    assert any("states epsilon '0.1000'" in f for f in failures)
    assert any("PRIVACY.md does not say" in f for f in failures)


@pytest.mark.parametrize(
    ("group", "field", "value", "message"),
    [
        ("privacy", "delta", 1e-9, "delta"),
        ("privacy", "epsilon", 1.0, "privacy.epsilon"),
        ("privacy", "l2_clip_norm", 0.1, "l2_clip_norm"),
        ("privacy", "noise_multiplier", 99.0, "noise_multiplier"),
        ("privacy", "accountant", "rdp", "accountant"),
        ("train", "batch_size", 50, "sampling_probability"),
        ("train", "num_steps", 5, "num_steps"),
        ("network.mlp", "hidden_width", 16, "parameters"),
        ("network", "name", "unet", "network.name"),
        ("diffusion", "parameterization", "v", "parameterization"),
        ("network.mlp", "hidden_width", "wide", "hidden_width"),
    ],
)
def test_a_config_of_something_else(bundle_copy, group, field, value, message):
    def change(config):
        settings.lookup(config, group)[field] = value

    failures = rewrite(bundle_copy, "config.json", change)
    assert any(message in f for f in failures), failures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(step=7), "states step 7"),
        (lambda m: m.update(format="x"), "the format 'x'"),
        (lambda m: m.update(run_id="0" * 32), "another run"),
        (lambda m: m.update(dtype="float16"), "allowed: float16"),
        (lambda m: m.update(num_parameters=1), "states 1 parameters"),
        (lambda m: m["model"].update(num_classes=9), "parameters"),
        (lambda m: m["model"].update(image_shape="x"), "does not describe a model"),
        (lambda m: m.pop("model"), "model"),
        (lambda m: m.clear(), "the format None"),
    ],
)
def test_a_manifest_of_something_else(bundle_copy, change, message):
    failures = rewrite(bundle_copy, "MANIFEST.json", change)
    assert any(message in f for f in failures), failures


def first_name(arrays):
    return sorted(arrays)[0]


def set_nan(arrays):
    arrays[first_name(arrays)].reshape(-1)[0] = np.nan


def transpose(arrays):
    name = next(n for n in arrays if len(set(arrays[n].shape)) == 2)
    arrays[name] = np.ascontiguousarray(arrays[name].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_nan, "not finite"),
        (transpose, "of shape"),
        (lambda a: a.pop(first_name(a)), "lacks weights"),
        (lambda a: a.update(x=np.zeros(1, np.float32)), "unknown weights x"),
        (
            lambda a: a.update({n: v.astype(np.float64) for n, v in a.items()}),
            "float64",
        ),
    ],
)
def test_parameters_of_something_else(bundle_copy, change, message):
    path = bundle_copy / "params.safetensors"
    arrays = dict(safetensors.numpy.load_file(path))
    change(arrays)
    safetensors.numpy.save_file(arrays, path)
    (bundle_copy / "SHA256SUMS").unlink()
    bundle.write_checksums(bundle_copy)
    failures = verify(bundle_copy).failures
    assert any(message in f for f in failures), failures


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((29, 8, 8, 1), np.uint8)}, "does not hold"),
        ({"images": np.zeros((30, 8, 8, 1), np.float32)}, "does not hold"),
        ({"images": np.zeros((30, 8, 8, 1), np.uint8), "real": np.ones(9)}, "alone"),
        ({"labels": np.zeros(30)}, "cannot be read"),
    ],
)
def test_samples_of_something_else(bundle_copy, arrays, message):
    np.savez(bundle_copy / "samples.npz", **arrays)
    (bundle_copy / "SHA256SUMS").unlink()
    bundle.write_checksums(bundle_copy)
    assert [f for f in verify(bundle_copy).failures if message in f]


def test_samples_that_are_not_described(bundle_copy):
    failures = rewrite(bundle_copy, "MANIFEST.json", lambda m: m.update(samples=None))
    assert "MANIFEST.json does not mention samples.npz." in failures


def test_a_difference_under_another_accountant_names_both(bundle_copy):
    def change(statement):
        statement["software"]["accountant"] = "dp-accounting 0.1"
        statement["epsilon_rdp"] = "12.0000"

    failures = rewrite(bundle_copy, "PRIVACY.json", change)
    assert any("computed with dp-accounting 0.1;" in f for f in failures)


@pytest.mark.slow
def test_values_of_any_kind_are_failures_and_never_crashes(bundle_copy):
    rng = random.Random(0)
    for name in ("MANIFEST.json", "PRIVACY.json", "config.json"):
        original = json.loads((bundle_copy / name).read_text())
        for path, _ in rng.sample(list(leaves(original)), 25):
            value = copy.deepcopy(original)
            node = value
            for part in path[:-1]:
                node = node[part]
            odd = rng.choice([None, "x", -1, [], {}, [[]], 1e308, 10**400, math.nan])
            node[path[-1]] = odd
            (bundle_copy / name).write_text(json.dumps(value))
            outcome = verify(bundle_copy)
            assert any("checksum" in f for f in outcome.failures)
            json.dumps(outcome.to_dict())
        (bundle_copy / name).write_text(json.dumps(original))


@pytest.mark.parametrize("content", [b"", b"x", b"[]", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "MANIFEST.json", "PRIVACY.json"])
def test_files_of_nonsense(bundle_copy, name, content):
    (bundle_copy / name).write_bytes(content)
    failures = verify(bundle_copy).failures
    assert any(name in f for f in failures)
    assert all("\n" not in f for f in failures)


def test_no_release_at_all(tmp_path):
    assert "is not a folder" in verify(tmp_path / "nothing").failures[0]
    assert "SHA256SUMS is missing." in verify(tmp_path).failures


def test_commands(released, bundle_copy, capsys):
    assert command.main(["verify", str(released)]) == 0
    line = capsys.readouterr().out
    epsilon = json.loads((released / "PRIVACY.json").read_text())["epsilon"]
    assert f"epsilon = {epsilon} at delta = 0.0001, recomputed with dp-acc" in line
    assert command.main(["verify", str(released), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["ok"] is True
    assert outcome["epsilon"] == epsilon
    assert command.main(["show", str(released)]) == 0
    assert f"epsilon = {epsilon}, delta = 0.0001" in capsys.readouterr().out
    (bundle_copy / "PRIVACY.md").write_text("epsilon is 0")
    assert command.main(["verify", str(bundle_copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "PRIVACY.md differs from its checksum."
    assert command.main(["show", str(bundle_copy.parent)]) == 1
    (bundle_copy / "MANIFEST.json").write_text(json.dumps({"format": bundle.FORMAT}))
    capsys.readouterr()
    assert command.main(["show", str(bundle_copy)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {bundle_copy}/MANIFEST.json lacks field 'dtype'")


@pytest.mark.slow
def test_the_command_starts_without_optional_packages(released):
    done = subprocess.run(
        [sys.executable, "-m", "dpdm_jax.release", "verify", str(released)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "is intact" in done.stdout


@pytest.mark.slow
def test_a_release_of_an_extended_run_states_every_phase(make_config, workdir, capsys):
    def say(text):
        assert "Phase 2: 2 steps" in text

    extend(make_config(extend__epsilon=12.0, extend__num_steps=2), workdir, say)
    train(make_config(), workdir)
    folder = release(make_config(), workdir)
    assert verify(folder).failures == ()
    record = read_ledger(workdir / "privacy.json")
    total = format_epsilon(record.plan.epsilon)
    stated = json.loads((folder / "PRIVACY.json").read_text())
    assert stated["epsilon"] == stated["epsilon_planned"] == total
    assert [phase["steps_planned"] for phase in stated["mechanism"]["phases"]] == [6, 2]
    text = (folder / "PRIVACY.md").read_text()
    assert "| extension 1 | Poisson" in text
    assert command.main(["verify", str(folder)]) == 0
    assert f"epsilon = {total} at delta" in capsys.readouterr().out
    # The config is that of the first phase, and verified against it.
    assert json.loads((folder / "config.json").read_text())["privacy"]["epsilon"] == 10

    def hide_a_phase(value):
        del value["mechanism"]["phases"][1]
        value["epsilon"] = format_epsilon(record.plan.extends.epsilon)

    failures = rewrite(folder, "PRIVACY.json", hide_a_phase)
    assert any("states mechanism.phases.1 '(absent)'" in f for f in failures)
    assert any("states epsilon '" in f for f in failures)
