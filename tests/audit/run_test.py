"""The audit of a run directory, as a person sees it."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from random_params import random_like
from reading import images_and_labels

from dpdm_jax import data, modes, run_dir
from dpdm_jax.audit import images, mechanism
from dpdm_jax.audit import run as audit_run
from dpdm_jax.errors import InputError
from dpdm_jax.networks.codecs import KEPT
from dpdm_jax.privacy import format_epsilon, read_ledger
from dpdm_jax.training.beginning import Beginning
from dpdm_jax.training.loop import train


@pytest.mark.slow
def test_mode(trained, make_config, capsys, same_entropy):
    config = make_config(audit__image_canaries=100)
    modes.audit(config, trained)
    said = capsys.readouterr().out
    record = read_ledger(trained / run_dir.LEDGER)
    assert f"Claimed: epsilon {format_epsilon(record.epsilon_spent())} at" in said
    assert "One run of 6 steps on 200 canaries: epsilon is at least" in said
    assert "100 runs of 3 steps with and without one canary: epsilon is at" in said
    assert "6 steps of the network itself on 100 images of noise: epsilon is" in said
    assert "Verdict: nothing contradicts the claim." in said
    assert "95% confidence" in said
    assert "private, do not publish" in said

    written = json.loads((trained / audit_run.RESULT).read_text())
    assert written["settings"] == config.audit.to_dict()
    # The shortened plan has an epsilon of its own.
    shorter = written["many_runs"]["bounds"][0]
    assert shorter["claimed"] == record.plan.epsilon_spent(3)
    assert shorter["claimed"] < written["one_run"]["bounds"][0]["claimed"]
    assert written["one_run"]["bounds"][0]["claimed"] == record.plan.epsilon
    assert written["membership"]["training_images"] == 40
    for name in (audit_run.RESULT, audit_run.PICTURE):
        assert (trained / name).stat().st_mode & 0o777 == 0o600


def planted(config, plan, asked):
    bound = mechanism.Bound("every step", plan.delta, 1.0, 2.5)
    return mechanism.OneRun(6, 200, 99, (bound,), 3.0, 1e-9, 0.01)


@pytest.mark.slow
def test_contradictions_are_said(trained, make_config, monkeypatch):
    config = make_config(audit__runs=0)
    monkeypatch.setattr(mechanism, "audit_one_run", planted)
    text = audit_run.describe(audit_run.audit(config, trained))
    assert "Verdict: the claim is CONTRADICTED:" in text
    assert "show epsilon > 2.500 at delta 0.0001, claimed 1.0000" in text
    assert "batch sizes scatter unlike those of Poisson sampling (p = 1e-09)" in text


@pytest.mark.slow
def test_images_of_noise_are_seen_by_the_codec_of_the_run(
    make_config, tmp_path, monkeypatch, same_entropy
):
    config = make_config(
        codec__name="kl",
        codec__kl__base_channels=32,
        codec__kl__num_res_blocks=1,
        codec__kl__attention_factors=(),
        diffusion__parameterization="edm",
        train__num_steps=2,
        audit__runs=0,
        audit__image_canaries=100,
    )

    def other_codec(config, model, random, content):
        return Beginning(random | {KEPT: random_like(model.shapes[KEPT], 0.1)})

    train(config, tmp_path, read_initial=other_codec)
    seen = []
    take = images._train

    def watched(config, plan, model, params, *data_of_run):
        seen.append(params)
        return take(config, plan, model, params, *data_of_run)

    monkeypatch.setattr(images, "_train", watched)
    monkeypatch.setattr(mechanism, "audit_one_run", planted)
    result = audit_run.audit(config, tmp_path)
    assert result["images_of_noise"]["canaries"] == 100
    (params,) = seen
    expected = random_like(params[KEPT], 0.1)
    jax.tree.map(np.testing.assert_array_equal, params[KEPT], expected)


@pytest.mark.slow
def test_run_without_guarantee_has_no_claim_to_audit(trained, make_config, monkeypatch):
    record = read_ledger(trained / run_dir.LEDGER)
    fixed = dataclasses.replace(record, fixed_keys=True)
    monkeypatch.setattr(audit_run, "read_ledger", lambda path: fixed)
    result = audit_run.audit(make_config(), trained)
    assert result["one_run"] is None
    assert all(r["highest_true_positives"] == 1 for r in result["membership"]["rates"])
    text = audit_run.describe(result)
    assert text.startswith("NOT PRIVATE (the keys are fixed (for tests only))")
    assert "Verdict" not in text


@pytest.mark.slow
def test_unfinished_run_is_refused(trained, make_config, monkeypatch):
    record = read_ledger(trained / run_dir.LEDGER)
    longer = dataclasses.replace(
        record.plan,
        sampling=dataclasses.replace(record.plan.sampling, num_steps=9),
    )
    monkeypatch.setattr(
        audit_run, "read_ledger", lambda path: dataclasses.replace(record, plan=longer)
    )
    with pytest.raises(InputError, match="has taken 6 of 9 steps"):
        audit_run.audit(make_config(), trained)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("canaries", 99, "audit.canaries is 99; allowed: an integer >= 100"),
        ("runs", 50, "audit.runs is 50; allowed: 0 for none, or at least 100"),
        ("image_canaries", 5, "audit.image_canaries is 5; allowed: an integer >= 100"),
        ("num_steps", 0, "audit.num_steps is 0"),
        ("confidence", 1.0, "audit.confidence is 1.0; allowed: a finite number > 0.5"),
        ("images", 0, "audit.images is 0"),
        ("seed", -1, "audit.seed is -1"),
    ],
)
def test_bad_settings_are_refused(field, value, message, make_config, tmp_path):
    config = make_config(**{f"audit__{field}": value})
    with pytest.raises(InputError, match=message):
        audit_run.audit(config, tmp_path)


@pytest.mark.slow
def test_other_images_of_the_same_kind_are_refused(trained, make_config, monkeypatch):
    load = data.load_source

    def changed(config, split):
        source = load(config, split)
        images, labels = images_and_labels(source)
        images[300, 3, 3] ^= 1
        return data.ArraySource(images, labels, source.condition.num_classes)

    monkeypatch.setattr(audit_run.data, "load_source", changed)
    with pytest.raises(InputError, match="training images are not those that"):
        audit_run.audit(make_config(), trained)


@pytest.mark.slow
def test_data_of_another_kind_is_refused(trained, make_config):
    config = make_config(data__num_classes=0)
    with pytest.raises(InputError, match="of 0 classes, and the model's"):
        audit_run.audit(config, trained)
