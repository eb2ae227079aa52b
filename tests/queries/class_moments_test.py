"""Moments are measured once, before the first step, and no step changes them."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest
from reading import shape_of

from dpdm_jax import data
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.images import pixels
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import PoissonSampling, accounting, read_ledger
from dpdm_jax.queries import of_run
from dpdm_jax.queries.class_moments import MomentsQuery
from dpdm_jax.release.build import release
from dpdm_jax.release.model import load_release
from dpdm_jax.release.verify import verify
from dpdm_jax.training import loop
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.secrets import fixed_secrets

ENGINES = ("vmap", "scan", "book_keeping")


@pytest.fixture(scope="module")
def make_config(tiny_config):
    def make(**overrides):
        settings = {
            "diffusion__parameterization": "edm_moments",
            "privacy__moments_noise_multiplier": 5.0,
            "train__num_steps": 3,
            "train__engine": ENGINES[0],
        }
        return tiny_config(**settings | overrides)

    return make


def leaves(tree):
    return jax.tree.leaves(jax.device_get(tree))


def weights_of(workdir, config, weights="raw", step=-1):
    """All of a checkpoint's; of the newest unless asked for another."""
    checkpoints = Checkpoints(workdir)
    try:
        model = build_model(config, (8, 8, 1), of_classes(10))
        return checkpoints.restore_weights(model, weights, step)[0]
    finally:
        checkpoints.close()


def moments_of(workdir, config):
    return weights_of(workdir, config)["moments"]


def with_engine(engine, components):
    """The fields of a run with known keys."""
    return {
        "privacy__fixed_keys_seed": 0,
        "train__engine": engine,
        "diffusion__edm_moments__components": components,
        "checkpoint__every_steps": 1,
    }


@pytest.fixture(scope="module")
def run_of(make_config, tmp_path_factory):
    """Trains with an engine and a number of components, once. Read-only."""

    @functools.cache
    def run(engine, components):
        workdir = tmp_path_factory.mktemp("run") / engine
        config = make_config(**with_engine(engine, components))
        return loop.train(config, workdir), workdir

    return run


@pytest.mark.slow
@pytest.mark.parametrize("components", [0, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_steps_train_the_network_and_leave_the_moments(
    make_config, run_of, engine, components
):
    config = make_config(**with_engine(engine, components))
    all_steps, workdir = run_of(engine, components)
    assert set(all_steps.params) == set(all_steps.ema_params) == {"network"}
    one, *ends = (
        weights_of(workdir, config, weights, step)
        for weights, step in (("raw", 1), ("raw", 3), ("ema", 3))
    )
    assert len(leaves(one["moments"])) == (4 if components else 2)
    for end in ends:
        for now, then in zip(
            leaves(end["moments"]), leaves(one["moments"]), strict=True
        ):
            np.testing.assert_array_equal(now, then)
    for now, then in zip(
        leaves(all_steps.params["network"]), leaves(one["network"]), strict=True
    ):
        assert (now != then).any()
    # Written once, for all checkpoints.
    assert len(list((workdir / "checkpoints" / "fixed").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("components", [0, 3])
def test_engines_agree(run_of, components):
    finals = [run_of(engine, components)[0].params for engine in ENGINES]
    for other in finals[1:]:
        for a, b in zip(leaves(finals[0]), leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def near(make_config, tmp_path_factory):
    """What is measured with little noise, the prior, and images and labels."""
    config = make_config(
        privacy__moments_noise_multiplier=0.1,
        privacy__epsilon=float("inf"),
        diffusion__edm_moments__components=3,
        train__num_steps=1,
    )
    workdir = tmp_path_factory.mktemp("near")
    loop.train(config, workdir)
    source = data.load_source(config.data, "train")
    examples = data.load_batch(source, np.arange(len(source))).examples
    prior = build_model(config, shape_of(source), source.condition).prior
    return moments_of(workdir, config), prior, examples["image"], examples["condition"]


@pytest.mark.slow
def test_what_is_measured_is_near_the_data(near):
    """A quarter of a standard deviation is far more than this noise: digits differ."""
    moments, prior, images, labels = near
    white = np.asarray(prior.whiten(pixels.to_float(images)))
    found = np.asarray(moments["mean"])
    for label in range(10):
        mean = white[labels == label].mean(axis=0)
        # Frequencies that differ most between classes; the guess for the others is 0.
        low = np.s_[:3, :3]
        np.testing.assert_allclose(found[label][low], mean[low], atol=0.25)
    assert np.abs(found[:10, :3, :3] - found[10, :3, :3]).max() > 1


@pytest.mark.slow
def test_components_are_near_the_data(near):
    moments, prior, images, labels = near
    frequencies = np.asarray(
        prior.whiten(pixels.to_float(images)) * prior.assumed_stds
    ).reshape(-1, 64)
    for label in range(10):
        found = np.asarray(moments["components"][label]).reshape(3, 64)
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
        covariance = np.cov(frequencies[labels == label].T)
        values, vectors = np.linalg.eigh(covariance)
        explained = np.trace(found @ covariance @ found.T)
        assert explained > 0.9 * values[-3:].sum()
        assert abs(found[0] @ vectors[:, -1]) > 0.9
        stds = np.asarray(moments["component_std"][label]) * prior.sigma_data
        np.testing.assert_allclose(stds**2, values[:-4:-1], rtol=0.3)


@pytest.mark.slow
def test_a_run_killed_before_its_first_step_measures_the_same_again(
    make_config, tmp_path, monkeypatch
):
    """With secret keys: those of step 0 are on disk before anything is measured."""
    seen = []
    answer = MomentsQuery.answer

    def killed(*args):
        seen.append(answer(*args)["moments"])
        if len(seen) < 3:
            raise KeyboardInterrupt
        return {"moments": seen[-1]}

    monkeypatch.setattr(MomentsQuery, "answer", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.train(make_config(), tmp_path)
        assert read_ledger(tmp_path / "privacy.json").epsilon_spent() > 0
    loop.train(make_config(), tmp_path)
    for each in (*seen[1:], moments_of(tmp_path, make_config())):
        for name in ("mean", "std"):
            np.testing.assert_array_equal(each[name], seen[0][name])


@pytest.mark.slow
def test_a_resumed_run_does_not_measure_again(
    make_config, run_of, tmp_path, monkeypatch
):
    fixed = with_engine(ENGINES[0], 0)
    whole, _ = run_of(ENGINES[0], 0)
    loop.train(make_config(**fixed, train__stop_after_steps=2), tmp_path / "parts")
    monkeypatch.setattr(MomentsQuery, "answer", None)
    parts = loop.train(make_config(**fixed), tmp_path / "parts")
    for a, b in zip(
        leaves((parts.params, parts.ema_params, parts.opt_state)),
        leaves((whole.params, whole.ema_params, whole.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_two_runs_measure_with_different_noise(make_config, tmp_path):
    config = make_config(train__stop_after_steps=1)
    for name in "ab":
        loop.train(config, tmp_path / name)
    means = [np.asarray(moments_of(tmp_path / name, config)["mean"]) for name in "ab"]
    assert (means[0] != means[1]).mean() > 0.99


def test_noise_of_queries_is_not_that_of_the_steps():
    secrets = fixed_secrets(0)
    other = dataclasses.replace(secrets, noise_words=secrets.noise_words + 1)
    keys = [
        jax.random.key_data(key)
        for key in (
            secrets.query_key("moments"),
            secrets.query_key("counts"),
            secrets.noise_key,
            other.query_key("moments"),
        )
    ]
    assert len({key.shape for key in keys}) == 1
    for one, another in itertools.combinations(keys, 2):
        assert not np.isin(one, another).any()


@pytest.mark.slow
@pytest.mark.parametrize("components", [0, 3])
def test_a_release_has_the_moments_and_counts_them(make_config, tmp_path, components):
    config = make_config(diffusion__edm_moments__components=components)
    loop.train(config, tmp_path)
    folder = release(config, tmp_path)
    assert verify(folder).failures == ()
    released = load_release(folder)
    stored = released.params["moments"]
    assert stored["mean"].shape == (11, 8, 8, 1)
    assert ("components" in stored) == (components > 0)
    if components:
        assert stored["components"].shape == (11, 3, 8, 8, 1)
    assert released.privacy["epsilon"] == "10.0000"
    assert [query["name"] for query in released.privacy["queries"]] == [
        "moments",
        "training",
    ]
    described = released.privacy["mechanism"]["moments"]
    queries = 3 if components else 2
    assert described == {"queries": queries, "noise_multiplier": 5.0}
    measured = "means, spreads and covariances" if components else "means and spreads"
    text = " ".join((folder / "PRIVACY.md").read_text().split())
    assert f"{queries} queries of all images measured {measured} of" in text
    images, labels = released.sample(4)
    assert images.shape == (4, 8, 8, 1)
    assert labels.shape == (4,)


@pytest.mark.parametrize("epsilon", [1.0, 10.0])
def test_a_share_of_the_budget(make_config, epsilon):
    """The queries alone spend their share; the noise is the least that does so."""
    config = make_config(
        privacy__moments_noise_multiplier=None,
        privacy__moments_share=0.7,
        privacy__epsilon=epsilon,
        diffusion__edm_moments__components=2,
    )
    model = build_model(config, (8, 8, 1), of_classes(10))
    query = of_run(config, model)[0].planned
    assert query.count == 3
    spent = [
        accounting.epsilon_of_events(
            [accounting.Event(PoissonSampling(1.0, 3), sigma, 3)], config.privacy.delta
        )
        for sigma in (query.noise_multiplier, query.noise_multiplier * 0.999)
    ]
    assert spent[0] <= 0.7 * epsilon < spent[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"privacy__moments_noise_multiplier": None},
            "privacy.moments_noise_multiplier is None and privacy.moments_share is 0.0 "
            "with diffusion.parameterization 'edm_moments'; allowed: one of them",
        ),
        (
            {"privacy__moments_share": 0.5},
            "privacy.moments_noise_multiplier is 5.0 and privacy.moments_share is 0.5 "
            "with diffusion.parameterization 'edm_moments'; allowed: one of them",
        ),
        (
            {
                "privacy__moments_noise_multiplier": None,
                "privacy__moments_share": 0.5,
                "diffusion__parameterization": "edm_dct",
            },
            "privacy.moments_share is 0.5 with diffusion.parameterization 'edm_dct'; "
            "allowed: 0, or 'edm_moments'",
        ),
        ({"privacy__moments_share": 1.0}, "privacy.moments_share is 1.0; allowed"),
        (
            {"diffusion__parameterization": "edm_dct"},
            "privacy.moments_noise_multiplier is 5.0 with "
            "diffusion.parameterization 'edm_dct'; allowed",
        ),
        (
            {
                "privacy__moments_noise_multiplier": None,
                "diffusion__parameterization": "edm_dct",
                "diffusion__edm_moments__components": 3,
            },
            "diffusion.edm_moments.components is 3, and diffusion.parameterization is "
            "'edm_dct', which does not read it; allowed: 0, its default, or diff",
        ),
        ({"diffusion__edm_moments__clip": 0.0}, "edm_moments.clip is 0.0; allowed"),
        (
            {"diffusion__edm_moments__components": 65},
            "edm_moments.components is 65; allowed",
        ),
        (
            {"privacy__moments_noise_multiplier": 0.1},
            "before the first step are moments .2 sums at 0.1., which spends",
        ),
        ({"privacy__moments_noise_multiplier": 0.0}, "multiplier is 0.0"),
    ],
)
def test_bad_config(make_config, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message):
        loop.train(make_config(**overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()
