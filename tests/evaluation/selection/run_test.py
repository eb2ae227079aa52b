"""Classifiers ranked by samples, which are real digits here: these can be learned."""

import json

import pytest
from reading import images_and_labels

from dpdm_jax import data
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import fitting
from dpdm_jax.evaluation.downstream import DownstreamResult, SeedResult
from dpdm_jax.evaluation.selection import run
from dpdm_jax.evaluation.selection.description import describe, describe_real
from dpdm_jax.sampling import images
from dpdm_jax.sampling import run as sampling_run

RATES = (1e-6, 3e-4, 3e-3)


def config_of(num_images=700, **fields):
    config = digits.network_alone()
    config.network.mlp.hidden_width = 8
    config.sampler.num_steps = 3
    config.sample.num_images = num_images
    config.evaluate.seeds = 2
    config.evaluate.epochs = 4
    config.evaluate.learning_rate = 0.0
    config.select.grid.classifier = ("mlp",)
    config.select.grid.learning_rate = RATES
    for name, value in fields.items():
        if name in config.select.grid:
            config.select.grid[name] = value
        else:
            config.select[name] = value
    return config


@pytest.fixture
def workdir(with_checkpoint, tmp_path):
    """A run directory whose samples are real digits."""
    config = config_of()
    with_checkpoint(config, tmp_path)
    folder = sampling_run.sample(config, tmp_path)
    made, labels = images_and_labels(data.load_source(config.data, "train"))
    images.write_npz(folder / sampling_run.ARCHIVE, made[:700], labels[:700])
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """The recipes and seeds of all that is trained."""
    fit, found = fitting.fit, []

    def recorded(*args, seed, recipe, **settings):
        found.append((recipe.learning_rate, seed))
        return fit(*args, seed=seed, recipe=recipe, **settings)

    monkeypatch.setattr(fitting, "fit", recorded)
    return found


def rates(result):
    return [entry["settings"]["learning_rate"] for entry in result["ranking"]]


@pytest.mark.slow
def test_ranks_without_a_look_at_real_images(workdir, monkeypatch):
    monkeypatch.setattr(data, "load_source", None)
    found = run.select(config_of(), workdir)
    assert found["real"] is None
    ranked = found["synthetic"]
    assert rates(ranked) == [3e-3, 3e-4, 1e-6]
    assert [entry["rank"] for entry in ranked["ranking"]] == [1, 2, 3]
    best, _, worst = ranked["ranking"]
    assert best["accuracy"] > 0.7 > 0.4 > worst["accuracy"]
    # Disjoint thirds of the samples, of every class.
    parts = [ranked[f"num_{name}"] for name in ("train", "selection", "held_out")]
    assert sum(parts) == 700
    assert best["settings"]["num_test"] == parts[2] > 130
    assert ranked["sample"]["weights"] == "ema"
    assert "labels_sha256" not in ranked["sample"]
    folder = workdir / "selection" / "samples"
    assert json.loads((folder / run.RESULT).read_text()) == ranked
    assert {path.name for path in folder.iterdir()} == {run.RESULT, "trained"}
    heading, columns, first, *_, error, note = describe(ranked).splitlines()
    assert heading.startswith("3 classifiers, each trained 2 times on ")
    assert columns.split() == ["rank", "classifier", "learning", "rate", "accuracy"]
    assert first.split()[:3] == ["1", "mlp", "0.003"]
    expected = (best["accuracy"] * (1 - best["accuracy"]) / parts[2]) ** 0.5
    assert error.endswith(f" a standard error of {100 * expected:.1f} %.")
    assert note == f"  {run.SYNTHETIC}."


@pytest.mark.slow
def test_nothing_is_trained_twice(workdir, trained, monkeypatch):
    record = fitting.fit

    def interrupted(*args, **settings):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return record(*args, **settings)

    monkeypatch.setattr(fitting, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.select(config_of(), workdir)
    assert not (workdir / "selection" / "samples" / run.RESULT).exists()
    monkeypatch.setattr(fitting, "fit", record)
    first = run.select(config_of(), workdir)
    assert trained == [(rate, seed) for rate in RATES for seed in (0, 1)]
    # Nor for real images, or a larger grid.
    again = run.select(config_of(real_test=True), workdir)
    assert again["synthetic"] == first["synthetic"]
    assert len(trained) == 6
    run.select(config_of(learning_rate=(*RATES, 1e-2)), workdir)
    assert trained[6:] == [(1e-2, 0), (1e-2, 1)]


@pytest.mark.slow
def test_real_images_agree_for_the_owner_alone(workdir):
    found = run.select(config_of(real_test=True), workdir)
    compared = found["real"]
    assert rates(compared) == [3e-3, 3e-4, 1e-6]
    assert compared["spearman"] == compared["kendall"] == pytest.approx(1)
    assert compared["chosen_accuracy"] == compared["best_accuracy"] > 0.7
    assert compared["num_real_test"] == 360
    assert compared["ranking"][0]["settings"]["num_test"] == 360
    path = workdir / "selection" / "samples" / run.PRIVATE_RESULT
    assert json.loads(path.read_text()) == compared
    assert path.stat().st_mode & 0o077 == 0
    words = describe_real(compared)
    assert words.startswith("PRIVATE, measured on real images; not covered by the ")
    assert "Spearman 1.00, Kendall 1.00" in words
    # What is public knows nothing of it.
    assert "real" not in (path.parent / run.RESULT).read_text().replace(
        run.SYNTHETIC, ""
    )


def test_a_choice_that_real_images_contradict_is_told():
    synthetic, real = (
        [
            DownstreamResult("mlp", (SeedResult(0, 1, 0.5, accuracy),), {})
            for accuracy in accuracies
        ]
        for accuracies in ((0.9, 0.8, 0.7), (0.7, 0.9, 0.8))
    )
    compared = run._compared(synthetic, real)
    assert (compared["chosen_accuracy"], compared["best_accuracy"]) == (0.7, 0.9)
    assert compared["spearman"] == pytest.approx(-0.5)
    assert [e["rank_synthetic"] for e in compared["ranking"]] == [2, 3, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifier": ()}, "select.grid.classifier is "),
        ({"classifier": ("svm",)}, "'svm'; allowed: logreg, mlp, cnn, wrn"),
        ({"classifier": ("cnn",)}, "at least 18x18"),
        ({"learning_rate": (1e-3, -1.0)}, "learning_rate is -1.0"),
        ({"num_images": 99}, "num_images is 99, which makes 9 of class 9; allowed: at"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    with_checkpoint, tmp_path, fields, message
):
    with_checkpoint(config_of(), tmp_path)
    with pytest.raises(InputError, match=message):
        run.select(config_of(**fields), tmp_path)
    assert not (tmp_path / "samples").exists()
    assert not (tmp_path / "selection").exists()


def test_images_without_labels(with_checkpoint, tmp_path):
    with_checkpoint(config_of(), tmp_path, 0)
    with pytest.raises(InputError, match="have no labels to train a classifier with"):
        run.select(config_of(), tmp_path)


def test_real_images_of_another_kind(with_checkpoint, tmp_path):
    config = config_of(real_test=True)
    with_checkpoint(config, tmp_path, 5)
    with pytest.raises(InputError, match=r"of 10 classes, and the synthetic .* of 5"):
        run.select(config, tmp_path)
    assert not (tmp_path / "samples").exists()
