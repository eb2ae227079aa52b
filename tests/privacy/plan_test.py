import dataclasses
import json
import math
import warnings

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting
from dpdm_jax.privacy.batch_selection import PoissonSampling
from dpdm_jax.privacy.plan import PrivacyConfig, PrivacyPlan, make_plan

CONFIG = PrivacyConfig(
    num_examples=1500, batch_size=256, epsilon=10, delta=1e-4, epochs=10
)


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def make_quietly(config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_plan(config)


NON_PRIVATE = changed(epsilon=math.inf, l2_clip_norm=0.5)


@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_a_calibrated_plan(accountant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = make_plan(changed(accountant=accountant, l2_clip_norm=0.5))
    assert plan.sampling == PoissonSampling(1 / 6, 60)
    assert plan.num_steps == 60
    assert plan.expected_batch_size == 250
    assert plan.noise_stddev == plan.noise_multiplier * 0.5
    assert 9.99 < plan.epsilon <= plan.target_epsilon == 10
    assert plan.epsilon == plan.epsilon_spent(60)
    assert plan.is_private
    assert plan.cautions() == ()
    assert plan.max_batch_size == plan.sampling.max_batch_size(1500)


def test_epsilon_spent_grows_from_nothing_to_the_total():
    plan = make_plan(CONFIG)
    spent = [plan.epsilon_spent(steps) for steps in (0, 1, 10, 59, 60)]
    assert spent == sorted(spent)
    assert spent[0] == 0
    assert spent[-1] == plan.epsilon
    assert plan.epsilon_spent(60, "rdp") > plan.epsilon
    with pytest.raises(InputError, match="num_steps is 61; allowed: at most 60"):
        plan.epsilon_spent(61)


def test_steps_instead_of_epochs():
    assert make_plan(changed(epochs=None, num_steps=60)) == make_plan(CONFIG)


def test_given_noise_within_the_budget_is_used_as_is():
    plan = make_plan(changed(noise_multiplier=3))
    assert plan.noise_multiplier == 3.0
    assert plan.epsilon == accounting.epsilon(plan.sampling, 3.0, 1e-4)
    assert plan.epsilon < 10


@pytest.mark.parametrize("noise", [0, 0.0, 1e-300, 0.1])
def test_given_noise_beyond_the_budget_is_refused(noise):
    with pytest.raises(InputError, match=r"which spends epsilon .*; allowed: enough"):
        make_plan(changed(noise_multiplier=noise))


def test_given_noise_without_a_budget_spends_what_it_gives():
    plan = make_plan(changed(epsilon=math.inf, noise_multiplier=2.0))
    assert plan.is_private
    assert plan.epsilon == accounting.epsilon(plan.sampling, 2.0, 1e-4)
    assert plan.l2_clip_norm == 1


def test_infinite_epsilon_is_ordinary_training_said_aloud():
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        plan = make_plan(NON_PRIVATE)
    assert not plan.is_private
    assert (plan.noise_multiplier, plan.l2_clip_norm) == (0, math.inf)
    assert plan.noise_stddev == 0
    assert plan.epsilon_spent(1) == math.inf
    assert plan.sampling == make_plan(CONFIG).sampling


def test_clipping_alone_is_not_private():
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        plan = make_plan(dataclasses.replace(NON_PRIVATE, noise_multiplier=0))
    assert not plan.is_private
    assert plan.l2_clip_norm == 0.5
    assert plan.noise_stddev == 0


@pytest.mark.parametrize("delta", [1 / 1500, 0.01])
def test_a_large_delta_warns(delta):
    with pytest.warns(UserWarning, match=r"delta is .*, not below 1/1500"):
        plan = make_plan(changed(delta=delta))
    assert len(plan.cautions()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 0}, "epsilon is 0; allowed: a number > 0"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": "1"}, "epsilon is '1'"),
        ({"epsilon": True}, "epsilon is True"),
        ({"epsilon": None}, "epsilon is None"),
        ({"delta": 0}, "delta is 0"),
        ({"delta": 1}, "delta is 1"),
        ({"delta": -1e-5}, "delta is -1e-05"),
        ({"delta": math.inf}, "delta is inf"),
        ({"l2_clip_norm": 0}, "l2_clip_norm is 0"),
        ({"l2_clip_norm": -1}, "l2_clip_norm is -1"),
        ({"l2_clip_norm": math.nan}, "l2_clip_norm is nan"),
        ({"l2_clip_norm": math.inf}, "l2_clip_norm is inf"),
        ({"accountant": "moments"}, "accountant is 'moments'; allowed: pld, rdp"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": math.inf}, "noise_multiplier is inf"),
        ({"noise_multiplier": "auto"}, "noise_multiplier is 'auto'"),
        ({"noise_multiplicity": 0}, "noise_multiplicity is 0"),
        ({"num_examples": 0}, "num_examples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1501}, "batch_size is 1501"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": None}, "exactly one"),
        ({"num_steps": 5}, "exactly one"),
        ({"epochs": None, "num_steps": 0}, "num_steps is 0"),
    ],
)
def test_bad_config(fields, message):
    with pytest.raises(InputError, match=message):
        make_plan(changed(**fields))


@pytest.mark.parametrize("config", [CONFIG, NON_PRIVATE, changed(delta=1e-5 / 3)])
def test_json_round_trip_is_exact(config):
    plan = make_quietly(config)
    text = json.dumps(plan.to_dict(), allow_nan=False)
    assert PrivacyPlan.from_dict(json.loads(text)) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 2}, "delta is 2"),
        ({"relation": "replace_one"}, "relation is 'replace_one'"),
        ({"epsilon": 11.0}, "which spends epsilon 11.0"),
        ({"noise_multiplier": 0.0}, "without noise; allowed: inf"),
        ({"l2_clip_norm": "inf"}, "l2_clip_norm is inf"),
        ({"l2_clip_norm": [1]}, r"l2_clip_norm is \[1\]"),
        ({"num_steps": None}, "num_steps is None"),
        ({"expected_batch_size": 0}, "expected_batch_size is 0"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_damaged_plan_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        PrivacyPlan.from_dict(make_plan(CONFIG).to_dict() | change)


def test_incomplete_plan_is_refused():
    fields = make_plan(CONFIG).to_dict()
    for name in fields:
        rest = {k: v for k, v in fields.items() if k != name}
        with pytest.raises(InputError, match="allowed: exactly"):
            PrivacyPlan.from_dict(rest)
    with pytest.raises(InputError, match="type list"):
        PrivacyPlan.from_dict([])


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, set()),
        ({"noise_multiplicity": 8}, set()),
        ({"epochs": 20, "noise_multiplier": 4.0}, {"num_steps", "noise_multiplier"}),
        ({"l2_clip_norm": 2.0}, {"l2_clip_norm"}),
        ({"noise_multiplier": 4.0}, {"noise_multiplier"}),
        ({"noise_multiplier": 4.0, "delta": 1e-5}, {"noise_multiplier", "delta"}),
        ({"num_examples": 1501}, {"num_examples"}),
    ],
)
def test_differences(fields, names):
    plan, other = make_plan(CONFIG), make_plan(changed(**fields))
    found = plan.differences(other)
    assert {name for name, _, _ in found} == names
    for name, mine, theirs in found:
        assert mine == plan.to_dict()[name]
        assert theirs == other.to_dict()[name]
        assert mine != theirs


def test_mechanism_has_every_field_that_touches_the_data():
    assert make_plan(CONFIG).mechanism().keys() == {
        "num_examples",
        "sampling_probability",
        "num_steps",
        "expected_batch_size",
        "noise_multiplier",
        "l2_clip_norm",
        "relation",
    }


def test_the_same_noise_given_is_the_same_plan():
    plan = make_plan(CONFIG)
    assert make_plan(changed(noise_multiplier=plan.noise_multiplier)) == plan
