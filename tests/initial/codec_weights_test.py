"""Runs on the latents of an autoencoder, from its file to a release."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from official_files import diffusers, write_diffusers
from random_params import random_like

import dpdm_jax
from dpdm_jax.errors import InputError
from dpdm_jax.initial import codec_weights, read_initial
from dpdm_jax.models.identity import digest
from dpdm_jax.models.model import build_model
from dpdm_jax.networks.codecs import KEPT, build_codec
from dpdm_jax.privacy import NO_TUNING, Tuning, read_ledger
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train

pytestmark = pytest.mark.slow

SHAPE, LATENT = (8, 8, 1), (4, 4, 2)
PUBLIC, ELSEWHERE = "street signs", "glyphs of fonts"


@pytest.fixture(scope="module")
def latent_config(tiny_config):
    """Makes a config of a perceptron on 4x4 latents."""

    def make(**overrides):
        latents = {
            "codec__name": "kl",
            "codec__public": PUBLIC,
            "codec__kl__base_channels": 32,
            "codec__kl__num_res_blocks": 1,
            "codec__kl__attention_factors": (),
            "codec__kl__latent_channels": 2,
            "codec__kl__scale_factor": 0.5,
            "diffusion__parameterization": "edm",
            "train__num_steps": 2,
        }
        return tiny_config(**latents | overrides)

    return make


@pytest.fixture(scope="module")
def weights(latent_config):
    codec = build_codec(latent_config().codec, SHAPE)
    return random_like(jax.eval_shape(codec.init, jax.random.key(0)), 0.1)


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    """What diffusers would have saved. Read-only."""
    folder = tmp_path_factory.mktemp("public") / "signs-vae"
    return write_diffusers(folder, diffusers(weights), 0.5)


@pytest.fixture(scope="module")
def public_run(latent_config, folder, tmp_path_factory):
    """A run on public data. Read-only."""
    workdir = tmp_path_factory.mktemp("public") / "run"
    config = latent_config(
        codec__weights=str(folder),
        data__public=ELSEWHERE,
        # Other images than those of the runs that begin with the weights.
        data__train_split="test",
        data__num_examples=360,
    )
    train(config, workdir, read_initial=read_initial)
    return workdir


def restored(workdir, config, step=-1):
    checkpoints = Checkpoints(workdir)
    try:
        model = build_model(config, *checkpoints.stored_problem())
        return model, checkpoints.restore_weights(model, "ema", step)[0]
    finally:
        checkpoints.close()


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_no_step_changes_the_weights_and_the_ledger_names_them(
    public_run, latent_config, folder, weights
):
    model, params = restored(public_run, latent_config())
    assert model.latent_shape == LATENT
    assert_equal(params[KEPT], weights[KEPT])
    first = restored(public_run, latent_config(), 0)[1]
    assert digest(first["network"]) != digest(params["network"])
    codec = read_ledger(public_run / "privacy.json").codec
    assert (codec.kind, codec.name) == ("folder", "signs-vae")
    assert (codec.public_data, codec.sha256) == (PUBLIC, digest(weights))


def test_a_run_and_its_release_have_the_codec_of_their_parent(
    public_run, latent_config, weights, tmp_path
):
    workdir = tmp_path / "child"
    config = latent_config(initial__weights=str(public_run), codec__public="")
    train(config, workdir, read_initial=read_initial)
    first = restored(workdir, config, 0)[1]
    assert_equal(first, restored(public_run, config)[1])
    record = read_ledger(workdir / "privacy.json")
    assert record.codec == read_ledger(public_run / "privacy.json").codec
    assert record.origin.public_data == ELSEWHERE

    published = release(config, workdir)
    assert verify(published).failures == ()
    text = " ".join((published / "PRIVACY.md").read_text().split())
    assert "by way of an autoencoder, that of the folder signs-vae (SHA-256" in text
    assert f"which was trained on public data: {PUBLIC}. None of that is" in text
    released = dpdm_jax.load_release(published)
    assert_equal(released.params[KEPT], weights[KEPT])
    images, labels = released.sample(3, labels="balanced")
    assert images.shape == (3, *SHAPE)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2]
    # A codec that is left out, or another, is not that of the ledger.
    fields = json.loads((published / "PRIVACY.json").read_text())
    for forged in ({}, {"codec": fields["codec"] | {"public_data": "others"}}):
        edited = {k: v for k, v in fields.items() if k != "codec"} | forged
        (published / "PRIVACY.json").write_text(json.dumps(edited))
        assert any("codec" in each for each in verify(published).failures)


@pytest.fixture(scope="module")
def published(public_run, latent_config, tmp_path_factory):
    """A release of the public run. Read-only."""
    copied = tmp_path_factory.mktemp("published") / "public"
    return release(latent_config(), shutil.copytree(public_run, copied))


def test_the_codec_of_a_release_serves_another_network(
    public_run, published, latent_config, weights, tmp_path
):
    config = latent_config(codec__weights=str(published), codec__public="")
    workdir = tmp_path / "other"
    train(config, workdir, read_initial=read_initial)
    first = restored(workdir, config, 0)[1]
    assert_equal(first[KEPT], weights[KEPT])
    others = restored(public_run, config)[1]
    assert digest(first["network"]) != digest(others["network"])
    record = read_ledger(workdir / "privacy.json")
    assert record.codec == read_ledger(public_run / "privacy.json").codec
    assert record.origin is None


def read(config, problem, weights):
    """Reads the codec of some place for a model of the config."""
    config.codec.weights = str(weights)
    model = build_model(config, *problem)
    return read_initial(config, model, model.init(jax.random.key(0)))


def problem_of(public_run, shape=SHAPE):
    checkpoints = Checkpoints(public_run)
    try:
        return shape, checkpoints.stored_problem()[1]
    finally:
        checkpoints.close()


def test_weights_that_a_release_rounded_are_called_by_what_they_are(
    public_run, latent_config, weights, tmp_path
):
    copied = shutil.copytree(public_run, tmp_path / "public")
    rounded = release(latent_config(release__dtype="float16"), copied)
    begun = read(latent_config(codec__public=""), problem_of(public_run), rounded)
    kept = {KEPT: begun.params[KEPT]}
    assert begun.codec.sha256 == digest(kept) != digest(weights)
    np.testing.assert_allclose(
        kept[KEPT]["from_latent"]["kernel"],
        weights[KEPT]["from_latent"]["kernel"],
        rtol=1e-3,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("overrides", "shape", "message"),
    [
        (
            {"codec__kl__scale_factor": 0.25},
            SHAPE,
            r"release was trained with the codec kl, scale_factor=0\.5; allowed: the s",
        ),
        (
            {"codec__kl__base_channels": 64},
            SHAPE,
            r"codec\.kl\.base_channels is 64 and that of the codec of .* 32; allowed",
        ),
        ({}, (16, 16, 1), "codec of .* is of images of 8x8x1; allowed: 16x16x1"),
        (
            {"codec__public": "photographs"},
            SHAPE,
            "codec.public is 'photographs' and the codec was trained on 'street signs'",
        ),
    ],
)
def test_a_release_with_another_codec(
    public_run, published, latent_config, overrides, shape, message
):
    config = latent_config(**overrides)
    with pytest.raises(InputError, match=message):
        read(config, problem_of(public_run, shape), published)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda record: (record, Tuning((record,))),
            "was chosen by runs that its release counts",
        ),
        (
            lambda record: (dataclasses.replace(record, codec=None), NO_TUNING),
            "does not say what its codec was trained on",
        ),
    ],
)
def test_a_release_whose_codec_is_not_plainly_public(
    public_run, published, latent_config, monkeypatch, change, message
):
    accounted = codec_weights.privacy_files.read_accounted
    monkeypatch.setattr(
        codec_weights.privacy_files,
        "read_accounted",
        lambda fields: change(accounted(fields)[0]),
    )
    with pytest.raises(InputError, match=message):
        read(latent_config(), problem_of(public_run), published)


def test_folders_that_are_no_codec(public_run, published, latent_config, tmp_path):
    problem = problem_of(public_run)
    with pytest.raises(InputError, match="a run directory; allowed: its autoencoder/"):
        read(latent_config(), problem, public_run)
    damaged = shutil.copytree(published, tmp_path / "damaged")
    (damaged / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="is no intact release"):
        read(latent_config(), problem, damaged)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "codec.weights is '' and codec.name is 'kl'; allowed: a checkpoint of"),
        (
            {"codec__weights": "{folder}", "codec__public": ""},
            "signs-vae' and codec.public is empty; allowed: the name of the public",
        ),
        (
            {"codec__weights": "{folder}", "codec__kl__scale_factor": 0.25},
            r"scaling_factor 0\.5; allowed with codec\.kl\.scale_factor=0\.25: the sa",
        ),
        (
            {"codec__weights": "{folder}", "codec__kl__num_res_blocks": 2},
            r"not those of the configured codec: \d+ missing: encoder",
        ),
        ({"codec__weights": "nowhere.ckpt"}, r"is nowhere\.ckpt; allowed: an existing"),
        (
            {"initial__weights": "{run}", "codec__weights": "{folder}"},
            "brings the codec that its network was trained with; allowed: ''",
        ),
        (
            {"initial__weights": "{run}", "codec__kl__scale_factor": 0.25},
            r"was trained with the codec kl, scale_factor=0\.5; allowed: the same",
        ),
        (
            {"initial__weights": "{run}", "codec__kl__base_channels": 64},
            r"the initial weights .* have shape .*; allowed: ",
        ),
    ],
)
def test_weights_that_are_not_there_or_do_not_fit(
    latent_config, folder, public_run, overrides, message
):
    places = {"folder": folder, "run": public_run}
    overrides = {
        name: value.format(**places) if isinstance(value, str) else value
        for name, value in overrides.items()
    }
    config = latent_config(**overrides)
    model = build_model(
        config, SHAPE, restored(public_run, latent_config())[0].condition
    )
    with pytest.raises(InputError, match=message):
        read_initial(config, model, model.init(jax.random.key(0)))
