"""Bugs planted in the training step: the audit contradicts each, and not the real code.

An audit contradicts a true claim with probability 5 % at most, all of its tests
together; the secrets come from fixed entropy, so that these do not vary.
"""

import dataclasses
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpdm_jax.audit import attacks, canaries, mechanism
from dpdm_jax.audit.run import contradictions
from dpdm_jax.conditions import of_classes
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import (
    Group,
    PoissonSampling,
    PrivacyConfig,
    Query,
    accounting,
    class_moments,
    clipped_grad,
    exact_sum,
    gaussian_noise,
    make_plan,
)
from dpdm_jax.queries import of_run
from dpdm_jax.training import from_config, secrets, step

PERSON = Group("person", 8)


def plan_with(noise_multiplier, unit=None):
    """30 steps at rate 1/4."""
    return make_plan(
        PrivacyConfig(
            num_examples=2000,
            batch_size=500,
            epsilon=math.inf,
            delta=1e-6,
            noise_multiplier=noise_multiplier,
            l2_clip_norm=0.5,
            num_steps=30,
            unit=unit,
        )
    )


@pytest.fixture
def config(make_config):
    return make_config(
        train__microbatch_size=256,
        audit__canaries=1000,
        audit__runs=800,
        audit__run_steps=30,
    )


def noise_halved(monkeypatch):
    def planted(stddev, key, **options):
        return gaussian_noise(stddev / 2, key, **options)

    monkeypatch.setattr(from_config, "gaussian_noise", planted)


def average_clipped(monkeypatch):
    """In place of its examples, the average of a micro-batch is clipped."""

    def planted(loss, *, l2_clip_norm, **options):
        summed = clipped_grad(loss, l2_clip_norm=math.inf, **options)

        def grad_fn(*args, is_padding_example, total):
            summed_up, aux = summed(*args, is_padding_example=is_padding_example)
            average = summed_up / jnp.maximum(1, jnp.sum(~is_padding_example))
            copies = jnp.broadcast_to(
                average, (*is_padding_example.shape, *average.shape)
            )
            clipped = exact_sum(
                copies,
                l2_clip_norm=l2_clip_norm,
                is_padding_example=is_padding_example,
            )
            return total + clipped, aux

        right = clipped_grad(loss, l2_clip_norm=l2_clip_norm, **options)
        return dataclasses.replace(right, fun=grad_fn)

    monkeypatch.setattr(step, "clipped_grad", planted)


def images_clipped_one_by_one(monkeypatch):
    """In place of a person's vector, that of each of their images is clipped."""

    def planted(loss, **options):
        right = clipped_grad(loss, **options)

        def grad_fn(params, units, keys, *, is_padding_example, total):
            room = len(jax.tree.leaves(units)[0][0])
            alone = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), units)
            total, aux = right(
                params,
                alone,
                jnp.repeat(keys, room, axis=0),
                is_padding_example=jnp.repeat(is_padding_example, room),
                total=total,
            )
            first = {"values": aux.values[::room], "grad_norms": aux.grad_norms[::room]}
            return total, aux._replace(**first)

        return dataclasses.replace(right, fun=grad_fn)

    monkeypatch.setattr(step, "clipped_grad", planted)


def noise_reused(monkeypatch):
    def planted(stddev, key, **options):
        noise = gaussian_noise(stddev, key, **options)

        def update(updates, state, params=None):
            return noise.update(updates, state, params)[0], state

        return optax.GradientTransformation(noise.init, update)

    monkeypatch.setattr(from_config, "gaussian_noise", planted)


def seed_published(monkeypatch):
    """Every run has the keys that anyone gets from the published seed."""
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
    monkeypatch.setattr(canaries, "fresh_secrets", secrets.fresh_secrets)


def epochs_shuffled(monkeypatch):
    def planted(self, num_examples, seed, step):
        batches = round(1 / self.sampling_probability)
        epoch, place = divmod(step, batches)
        order = np.random.default_rng([*seed, epoch]).permutation(num_examples)
        return np.sort(order[place::batches])

    monkeypatch.setattr(PoissonSampling, "indices", planted)


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
@pytest.mark.parametrize("unit", [None, PERSON], ids=["images", "people"])
def test_real_code_is_not_contradicted(config, unit):
    one_run = mechanism.audit_one_run(config, plan_with(3.0, unit))
    many_runs = mechanism.audit_many_runs(config, plan_with(1.0, unit))
    assert contradictions(one_run, many_runs) == []
    # The attacks do see the canaries.
    assert max(bound.shown for bound in many_runs.bounds) > 0.2
    assert one_run.most > one_run.bounds[0].claimed


@pytest.mark.usefixtures("same_entropy")
@pytest.mark.parametrize(
    ("plant", "attack", "unit"),
    [
        (average_clipped, attacks.RELEASE, None),
        pytest.param(noise_reused, attacks.SAME_NOISE, None, marks=pytest.mark.slow),
        pytest.param(seed_published, attacks.SAME_KEYS, None, marks=pytest.mark.slow),
        pytest.param(
            images_clipped_one_by_one, attacks.RELEASE, PERSON, marks=pytest.mark.slow
        ),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_one_run_contradicts(plant, attack, unit, config, monkeypatch):
    plant(monkeypatch)
    found = mechanism.audit_one_run(config, plan_with(3.0, unit))
    bounds = {bound.attack: bound for bound in found.bounds}
    assert bounds[attack].contradicts
    assert found.is_poisson


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
def test_many_runs_contradict_half_the_noise(config, monkeypatch):
    noise_halved(monkeypatch)
    found = mechanism.audit_many_runs(config, plan_with(1.0))
    assert any(bound.contradicts for bound in found.bounds)


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
def test_batch_sizes_contradict_shuffling(config, monkeypatch):
    epochs_shuffled(monkeypatch)
    found = mechanism.audit_one_run(config, plan_with(3.0))
    assert not found.is_poisson
    assert "unlike those of Poisson sampling" in contradictions(found)[-1]


# ---- bugs in the queries before the first step


def plan_with_queries(num_steps=2, noise_multiplier=20.0):
    """Three queries, and steps with so much noise that they say little."""
    return make_plan(
        PrivacyConfig(
            num_examples=2000,
            batch_size=1000,
            epsilon=math.inf,
            delta=1e-6,
            noise_multiplier=noise_multiplier,
            num_steps=num_steps,
            queries=(Query("moments", 3, 8.0),),
        )
    )


@pytest.fixture
def config_with_queries(make_config):
    return make_config(
        diffusion__parameterization="edm_moments",
        diffusion__edm_moments__components=4,
        privacy__moments_noise_multiplier=8.0,
        train__microbatch_size=1008,
        audit__canaries=1000,
        audit__runs=200,
        audit__run_steps=2,
    )


def asked_by(config):
    return of_run(config, build_model(config, (8, 8, 1), of_classes(10)))


def queries_without_noise(monkeypatch):
    monkeypatch.setattr(
        class_moments, "gaussian_noise", lambda stddev, key: gaussian_noise(0.0, key)
    )


def features_unclipped(monkeypatch):
    monkeypatch.setattr(class_moments.norms, "clip_to_one", lambda vectors: vectors)


def queries_key_published(monkeypatch):
    key = secrets.fixed_secrets(0).noise_key
    monkeypatch.setattr(secrets.Secrets, "query_key", lambda self, name: key)


def noise_of_queries_reused(monkeypatch):
    def planted(stddev, key):
        noise = gaussian_noise(stddev, key)

        def update(updates, state, params=None):
            return noise.update(updates, state, params)[0], state

        return optax.GradientTransformation(noise.init, update)

    monkeypatch.setattr(class_moments, "gaussian_noise", planted)


def noise_of_steps_reused(monkeypatch):
    monkeypatch.setattr(secrets.Secrets, "query_key", lambda self, name: self.noise_key)


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
def test_real_queries_are_not_contradicted(config_with_queries):
    plan = plan_with_queries()
    asked = asked_by(config_with_queries)
    one_run = mechanism.audit_one_run(config_with_queries, plan, asked)
    many_runs = mechanism.audit_many_runs(config_with_queries, plan, asked)
    assert contradictions(one_run, many_runs) == []
    events = plan.query_events
    alone = accounting.epsilon_of_events(events, plan.delta, plan.accountant)
    assert all(bound.claimed > alone for bound in one_run.bounds)
    assert many_runs.bounds[0].claimed > alone
    assert {bound.attack for bound in one_run.bounds} == set(attacks.ATTACKS) - {
        attacks.LOSS
    }
    assert one_run.most > one_run.bounds[0].claimed


@pytest.mark.usefixtures("same_entropy")
@pytest.mark.parametrize(
    ("plant", "attack"),
    [
        (queries_without_noise, attacks.QUERIES),
        pytest.param(features_unclipped, attacks.QUERIES, marks=pytest.mark.slow),
        pytest.param(
            queries_key_published, attacks.QUERIES_SAME_KEYS, marks=pytest.mark.slow
        ),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_one_run_contradicts_queries(plant, attack, config_with_queries, monkeypatch):
    plant(monkeypatch)
    asked = asked_by(config_with_queries)
    found = mechanism.audit_one_run(config_with_queries, plan_with_queries(), asked)
    bounds = {bound.attack: bound for bound in found.bounds}
    assert bounds[attack].contradicts
    assert any(attacks.ATTACKS[attack] in each for each in contradictions(found))


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
@pytest.mark.parametrize("plant", [noise_of_queries_reused, noise_of_steps_reused])
def test_noise_used_again_is_seen(plant, config_with_queries, monkeypatch):
    plant(monkeypatch)
    asked = asked_by(config_with_queries)
    found = mechanism.audit_one_run(config_with_queries, plan_with_queries(), asked)
    assert not found.is_noise_new
    assert "is not new each time" in contradictions(found)[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("same_entropy")
def test_many_runs_contradict_queries_without_noise(config_with_queries, monkeypatch):
    queries_without_noise(monkeypatch)
    plan = plan_with_queries(noise_multiplier=200.0)
    asked = asked_by(config_with_queries)
    found = mechanism.audit_many_runs(config_with_queries, plan, asked)
    assert any(bound.contradicts for bound in found.bounds)


def test_shortened_plan_stands_alone():
    first = plan_with(3.0)
    extension = dataclasses.replace(first, extends=first, epsilon=10.0)
    for steps in (5, 30, 99):
        plan = mechanism.shortened(extension, steps)
        assert plan.total_steps == min(steps, 30)
        assert plan.epsilon == first.epsilon_spent(min(steps, 30))
    with_queries = plan_with_queries(num_steps=30)
    plan = mechanism.shortened(with_queries, 5)
    assert plan.queries == with_queries.queries
    assert plan.epsilon == with_queries.epsilon_spent(5)
