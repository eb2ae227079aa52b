import dataclasses

import jax
import numpy as np
import pytest

from dpdm_jax.evaluation import fitting, registry
from dpdm_jax.evaluation.trainings import Trainings

RECIPE = registry.recipe("logreg", epochs=2)


@pytest.fixture
def train(digits, tmp_path, monkeypatch):
    """Trains by way of the folder; returns the result and whether it was trained."""
    classifier = registry.build_classifier("logreg", (8, 8, 1), 10)
    fit, trained = fitting.fit, []

    def counted(*args, **settings):
        trained.append(settings)
        return fit(*args, **settings)

    monkeypatch.setattr(fitting, "fit", counted)

    def run(images="digits", **changed):
        before = len(trained)
        settings = {"seed": 0, "recipe": RECIPE, **changed}
        fitted = Trainings(tmp_path, images).fit(classifier, *digits[:2], **settings)
        return fitted, len(trained) > before

    return run


def test_what_is_there_is_read(train):
    first, was_trained = train()
    assert was_trained
    again, was_trained = train()
    assert not was_trained
    assert again[1:] == first[1:]
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"shuffle": True},
        {"images": "others"},
        {"recipe": dataclasses.replace(RECIPE, learning_rate=1e-3)},
    ],
)
def test_another_training_is_another(train, changed):
    trained = [train(**which)[1] for which in ({}, changed, {}, changed)]
    assert trained == [True, True, False, False]


def test_a_damaged_file_is_trained_anew(train, tmp_path):
    first, _ = train()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("logreg-")
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(path.read_bytes()[:-30])
    again, was_trained = train()
    assert was_trained
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    assert not train()[1]
