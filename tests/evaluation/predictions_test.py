import jax
import numpy as np
import pytest

from dpdm_jax.evaluation import predictions, registry


@pytest.mark.parametrize("size", [1, 499, 500, 501])
def test_accuracy_counts_every_image(digits, size):
    images = digits[0][0][:size]
    classifier = registry.build_classifier("logreg", (8, 8, 1), 10)
    params = jax.jit(classifier.init)(jax.random.key(0))
    x = images.astype(np.float32) / 127.5 - 1
    # The last image, which padding points to, counts as correct.
    correct = np.random.default_rng(0).random(size) < 0.7
    correct[-1] = True
    found = np.argmax(classifier.apply(params, x), axis=1)
    labels = np.where(correct, found, (found + 1) % 10)
    expected = np.count_nonzero(correct) / size
    assert predictions.accuracy(classifier, params, images, labels) == expected


def test_probabilities_are_those_of_every_image(digits):
    images = digits[0][0][:501]
    classifier = registry.build_classifier("logreg", (8, 8, 1), 10)
    params = jax.jit(classifier.init)(jax.random.key(0))
    found = predictions.probabilities(classifier, params, images)
    logits = np.asarray(classifier.apply(params, images.astype(np.float32) / 127.5 - 1))
    odds = np.exp(logits)
    assert found.shape == (501, 10)
    np.testing.assert_allclose(found, odds / odds.sum(axis=1, keepdims=True), rtol=1e-4)


def test_an_ensemble_is_the_mean_of_probabilities():
    # Two of three prefer class 0, one is sure of class 1: the mean is not the vote.
    members = [[[0.6, 0.4]], [[0.55, 0.45]], [[0.1, 0.9]]]
    assert predictions.ensemble_accuracy([np.array(m) for m in members], [1]) == 1
    assert predictions.ensemble_accuracy([np.array(m) for m in members], [0]) == 0
