"""DP-SGD on real digits, and that the noise and the batches are those accounted for."""

import os

import jax
import numpy as np
import pytest

from dpdm_jax import privacy
from dpdm_jax.errors import InputError
from dpdm_jax.evaluation import dp_sgd


def accuracy(digits, settings, name="logreg", **options):
    (train, _, test) = digits
    return dp_sgd.dp_sgd_accuracy(name, train, test, 10, settings, **options)


@pytest.mark.slow
def test_accuracy_falls_with_the_budget(digits, monkeypatch):
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)
    by_epsilon = {}
    for epsilon in (0.05, 1.0, 20.0):
        settings = dp_sgd.DPSGD(epsilon, 1e-4, epochs=15, learning_rate=1e-2)
        result = accuracy(digits, settings, seeds=(0, 1))
        by_epsilon[epsilon] = result.mean
        plan = privacy.PoissonSampling.from_batch_size(1237, 123, epochs=15)
        sigma = result.settings["noise_multiplier"]
        spent = privacy.accounting.epsilon(plan, sigma, 1e-4)
        assert 0.99 * epsilon < spent <= epsilon
    assert by_epsilon[0.05] < by_epsilon[1.0] < by_epsilon[20.0]
    assert by_epsilon[20.0] > 0.85


def test_a_step_is_the_clipped_sum_with_noise_over_the_expected_size(
    digits, monkeypatch
):
    """Plain gradient descent, an epoch of it, against NumPy."""
    images, labels = digits[0]
    monkeypatch.setattr(dp_sgd.optax, "adam", dp_sgd.optax.sgd)
    drawn, made = [], []
    gaussian_noise, batches = privacy.gaussian_noise, privacy.PoissonSampling.batches

    def recorded_noise(stddev, key):
        made.append(stddev)
        return gaussian_noise(0.0, key)

    def recorded_batches(self, *args):
        found = list(batches(self, *args))
        drawn.extend(found)
        return found

    monkeypatch.setattr(privacy, "gaussian_noise", recorded_noise)
    monkeypatch.setattr(privacy.PoissonSampling, "batches", recorded_batches)
    final = []
    measure = dp_sgd.predictions.accuracy

    def recorded_accuracy(classifier, params, *test):
        final.append(params)
        return measure(classifier, params, *test)

    monkeypatch.setattr(dp_sgd.predictions, "accuracy", recorded_accuracy)
    settings = dp_sgd.DPSGD(5.0, 1e-4, epochs=1, learning_rate=0.5, l2_clip_norm=0.7)
    result = accuracy(digits, settings, seeds=(3,))
    assert made == [0.7 * result.settings["noise_multiplier"]]

    weights, bias = (
        np.float64(x)
        for x in jax.tree.leaves(
            jax.jit(dp_sgd.registry.build_classifier("logreg", (8, 8, 1), 10).init)(
                dp_sgd.rngs.stream(3, "dp_sgd_init")
            )
        )[::-1]
    )
    assert len(drawn) == 11
    for batch in drawn:
        x = images[batch].reshape(-1, 64) / 127.5 - 1
        logits = x @ weights + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(batch)), labels[batch]] -= 1
        norms = np.linalg.norm(p, axis=1) * np.sqrt(1 + np.sum(x**2, axis=1))
        p *= np.minimum(1, 0.7 / norms)[:, None]
        weights -= 0.5 * x.T @ p / 112
        bias -= 0.5 * p.sum(0) / 112
    np.testing.assert_allclose(final[0]["linear"]["kernel"], weights, atol=1e-5)
    np.testing.assert_allclose(final[0]["linear"]["bias"], bias, atol=1e-5)


@pytest.mark.slow
def test_each_training_has_secrets_of_its_own(digits, monkeypatch):
    """Those of a public seed would let anyone take the noise off again."""
    noise_keys, seeds = [], []
    gaussian_noise, batches = privacy.gaussian_noise, privacy.PoissonSampling.batches

    def recorded_noise(stddev, key):
        noise_keys.append(np.asarray(jax.random.key_data(key)))
        return gaussian_noise(stddev, key)

    def recorded_batches(self, size, seed):
        seeds.append(seed)
        return batches(self, size, seed)

    monkeypatch.setattr(privacy, "gaussian_noise", recorded_noise)
    monkeypatch.setattr(privacy.PoissonSampling, "batches", recorded_batches)
    settings = dp_sgd.DPSGD(5.0, 1e-4, epochs=1)
    for _ in range(2):
        accuracy(digits, settings, seeds=(1, 2))
    assert len(set(seeds)) == len({key.tobytes() for key in noise_keys}) == 4
    assert min(map(len, seeds)) * 8 >= 128
    assert min(key.nbytes for key in noise_keys) * 8 >= 128


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
        ({"delta": 1.0}, "delta is 1.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"l2_clip_norm": -1.0}, "l2_clip_norm is -1.0"),
    ],
)
def test_settings_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        dp_sgd.DPSGD(**({"epsilon": 1.0, "delta": 1e-4} | fields))


def test_refuses_sets(digits):
    (images, labels), _, test = digits
    with pytest.raises(InputError, match="training set has no image of class 3"):
        accuracy(
            ((images[labels != 3], labels[labels != 3]), None, test),
            dp_sgd.DPSGD(1.0, 1e-4),
        )
