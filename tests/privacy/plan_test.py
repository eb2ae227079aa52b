import dataclasses
import json
import math
import warnings

import dp_accounting
import pytest
from dp_accounting import rdp

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting
from dpdm_jax.privacy.batch_selection import PoissonSampling
from dpdm_jax.privacy.plan import (
    PrivacyConfig,
    PrivacyPlan,
    extend_plan,
    make_plan,
)
from dpdm_jax.privacy.queries import Query

CONFIG = PrivacyConfig(
    num_examples=1500, batch_size=256, epsilon=10, delta=1e-4, epochs=10
)


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def make_quietly(config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_plan(config)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"epochs": None, "num_steps": 10**9}, "num_steps is 1000000000; allowed: an"),
        ({"epochs": None, "num_steps": 10**20}, "integer <= 10000000"),
        ({"epochs": 10**7}, "the number of steps of all epochs is 60000000; allowed"),
        ({"epochs": 10**30}, "epochs is 1000.* allowed: an integer <= 10000000"),
    ],
)
def test_more_steps_than_anyone_accounts_for_are_refused_at_once(
    monkeypatch, fields, says
):
    monkeypatch.setattr(accounting, "calibrate_noise_multiplier", None)
    with pytest.raises(InputError, match=says):
        make_plan(changed(**fields))


NON_PRIVATE = changed(epsilon=math.inf, l2_clip_norm=0.5)


@pytest.mark.slow
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


def test_an_exact_batch_size_is_sampled_divided_by_and_accounted_for():
    # 1 / 6 for a batch of 256 of 1,500 would be 250 images, and less of their budget.
    usual, exact = make_plan(CONFIG), make_plan(changed(exact_batch_size=True))
    assert exact.sampling == PoissonSampling(256 / 1500, 60)
    assert exact.expected_batch_size == 256
    assert exact.noise_multiplier > usual.noise_multiplier
    assert 9.99 < exact.epsilon <= 10
    with pytest.raises(InputError, match="allowed: enough noise"):
        make_plan(
            changed(exact_batch_size=True, noise_multiplier=usual.noise_multiplier)
        )
    assert PrivacyPlan.from_dict(exact.to_dict()) == exact


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


def test_noise_that_cannot_be_drawn_is_no_plan():
    """Else steps would be counted before one could be taken."""
    plan = make_plan(changed(coordinates=7))
    with pytest.raises(InputError, match="the noise_multiplier of the steps is"):
        dataclasses.replace(plan, noise_multiplier=2.0**18)


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


@pytest.mark.slow
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
        "queries",
        "public_data",
        "trained",
        "coordinates",
        "unit",
    }


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_exact_arithmetic_is_part_of_epsilon(accountant):
    given = changed(accountant=accountant, noise_multiplier=3.0)
    plain = make_plan(given)
    exact = make_plan(dataclasses.replace(given, coordinates=10**6))
    assert plain.epsilon < exact.epsilon < plain.epsilon + 1e-5
    assert exact.epsilon_spent(30) > plain.epsilon_spent(30)
    calibrated = make_plan(changed(accountant=accountant, coordinates=10**10))
    assert calibrated.epsilon <= CONFIG.epsilon
    assert PrivacyPlan.from_dict(exact.to_dict()) == exact
    assert "coordinates" not in plain.to_dict()
    assert ("coordinates", None, 10**6) in plain.differences(exact)
    longer = extend_plan(exact, num_steps=30, epsilon=1000.0, noise_multiplier=3.0)
    assert {event.coordinates for event in longer.events(90)} == {10**6}
    with pytest.raises(InputError, match="coordinates is 0"):
        make_plan(dataclasses.replace(given, coordinates=0))


def test_the_same_noise_given_is_the_same_plan():
    plan = make_plan(CONFIG)
    assert make_plan(changed(noise_multiplier=plan.noise_multiplier)) == plan


# RDP, whose composition takes milliseconds.
RDP = changed(accountant="rdp")


def independent_epsilon(phases, delta):
    """Of (q, sigma, steps) each, by dp-accounting itself and at its own orders."""
    accountant = rdp.RdpAccountant()
    for q, sigma, steps in phases:
        step = dp_accounting.PoissonSampledDpEvent(
            q, dp_accounting.GaussianDpEvent(sigma)
        )
        accountant.compose(step, steps)
    return accountant.get_epsilon(delta)


@pytest.mark.slow
def test_an_extension_meets_the_total_budget_composed():
    plan = make_plan(RDP)
    longer = extend_plan(plan, num_steps=30, epsilon=12)
    assert longer.epsilon <= 12
    assert longer.epsilon > 0.999 * 12
    phases = [
        (1 / 6, plan.noise_multiplier, 60),
        (1 / 6, longer.noise_multiplier, 30),
    ]
    assert longer.epsilon == pytest.approx(independent_epsilon(phases, 1e-4), rel=0.01)
    # Less than what the phases spend one by one, more than either.
    alone = accounting.epsilon(longer.sampling, longer.noise_multiplier, 1e-4, "rdp")
    assert max(alone, plan.epsilon) < longer.epsilon < alone + plan.epsilon


def test_an_extension_composes_under_pld():
    plan = make_plan(CONFIG)
    longer = extend_plan(
        plan, num_steps=60, epsilon=1000, noise_multiplier=plan.noise_multiplier
    )
    # As many steps at the same noise: the figure of one plan of 120 steps.
    twice = accounting.epsilon(PoissonSampling(1 / 6, 120), plan.noise_multiplier, 1e-4)
    assert longer.epsilon == pytest.approx(twice, rel=1e-3)
    assert longer.epsilon_spent(60) == plan.epsilon
    assert plan.epsilon < longer.epsilon_spent(61) < longer.epsilon
    assert (
        longer.epsilon_spent(120) == longer.epsilon < longer.epsilon_spent(120, "rdp")
    )


def test_extending_twice_composes_all():
    first = make_plan(RDP)
    second = extend_plan(first, num_steps=30, epsilon=12)
    third = extend_plan(second, num_steps=5, epsilon=13.5, noise_multiplier=4.0)
    assert third.phases == (first, second, third)
    assert [p.first_step for p in third.phases] == [0, 60, 90]
    assert [p.total_steps for p in third.phases] == [60, 90, 95]
    assert [e.num_steps for e in third.events(92)] == [60, 30, 2]
    assert [e.num_steps for e in third.events(7)] == [7, 0, 0]
    assert second.epsilon < third.epsilon <= 13.5
    assert third.epsilon_spent(90) == second.epsilon
    assert third.epsilon_spent(60) == first.epsilon
    for bad in (-1, 96):
        with pytest.raises(InputError, match=f"num_steps is {bad}"):
            third.epsilon_spent(bad)


def test_no_two_plans_of_a_run_share_a_draw():
    plan = make_plan(RDP)
    longer = extend_plan(plan, num_steps=3, epsilon=20, noise_multiplier=4.0)
    seed = bytes(range(16))
    batches = [plan.indices(1500, seed, step) for step in range(60)]
    batches += [longer.indices(1500, seed, step) for step in range(60, 63)]
    assert len({batch.tobytes() for batch in batches}) == 63
    for step in (59, 63):
        with pytest.raises(InputError, match=f"step is {step}"):
            longer.indices(1500, seed, step)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 10}, "total epsilon is 10; allowed: more than 10.0"),
        ({"epsilon": 3.0}, "total epsilon is 3.0; allowed: more than 10.0"),
        ({"epsilon": math.nan}, "total epsilon is nan"),
        ({"epsilon": 0.0}, "total epsilon is 0.0"),
        ({"num_steps": 0}, "number of steps to add is 0"),
        ({"num_steps": 1.5}, "number of steps to add is 1.5"),
        ({"noise_multiplier": -1.0}, "noise_multiplier is -1.0"),
        ({"noise_multiplier": 0.3}, "which spends epsilon .*; allowed: enough noise"),
        ({"noise_multiplier": 0.0}, "without any guarantee"),
        ({"epsilon": math.inf}, "without any guarantee"),
    ],
)
def test_bad_extension(fields, message):
    with pytest.raises(InputError, match=message):
        extend_plan(make_plan(RDP), **({"num_steps": 30, "epsilon": 12.0} | fields))


def test_ordinary_training_is_extended_by_ordinary_training():
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        longer = extend_plan(make_quietly(NON_PRIVATE), num_steps=5, epsilon=math.inf)
    assert longer.noise_stddev == 0
    assert longer.epsilon_spent(1) == math.inf


def test_an_extension_keeps_all_but_steps_noise_and_budget():
    plan = make_plan(RDP)
    longer = extend_plan(plan, num_steps=30, epsilon=12)
    text = json.dumps(longer.to_dict(), allow_nan=False)
    assert PrivacyPlan.from_dict(json.loads(text)) == longer
    for name, value in (
        ("delta", 1e-5),
        ("l2_clip_norm", 2.0),
        ("sampling_probability", 0.5),
        ("accountant", "pld"),
        ("num_examples", 1501),
    ):
        with pytest.raises(InputError, match=f"the extension changes {name}"):
            PrivacyPlan.from_dict(longer.to_dict() | {name: value})
    with pytest.raises(InputError, match="type NoneType"):
        PrivacyPlan.from_dict(longer.to_dict() | {"extends": None})


@pytest.mark.slow
def test_differences_of_extensions():
    plan = make_plan(RDP)
    longer = extend_plan(plan, num_steps=30, epsilon=12)
    assert longer.differences(longer) == []
    assert ("number of plans", 2, 1) in longer.differences(plan)
    other = extend_plan(
        make_plan(changed(accountant="rdp", noise_multiplier=5.0)),
        num_steps=30,
        epsilon=12,
    )
    names = [name for name, _, _ in longer.differences(other)]
    assert names == ["noise_multiplier", "extends.noise_multiplier"]


MOMENTS = changed(queries=(Query("moments", 2, 5.0),))


def moments(count=2, noise_multiplier=5.0):
    return (Query("moments", count, noise_multiplier),)


@pytest.mark.slow
@pytest.mark.parametrize("accountant", accounting.ACCOUNTANTS)
def test_moments_and_steps_share_the_budget(accountant):
    plan = make_plan(dataclasses.replace(MOMENTS, accountant=accountant))
    assert 9.99 < plan.epsilon <= 10
    assert plan.epsilon_spent(60) == plan.epsilon
    assert plan.epsilon_spent(0) > 0
    assert plan.noise_multiplier > make_plan(changed()).noise_multiplier


@pytest.mark.parametrize("queries", [2, 3])
def test_moments_compose_as_gaussians_of_all_examples(queries):
    config = dataclasses.replace(MOMENTS, accountant="rdp", queries=moments(queries))
    plan = make_plan(config)
    assert [event.num_steps for event in plan.events(60)] == [queries, 60]
    independent = rdp.RdpAccountant(accounting._RDP_ORDERS)
    independent.compose(dp_accounting.GaussianDpEvent(5.0), queries)
    alone = independent.get_epsilon(1e-4)
    assert plan.epsilon_spent(0) == pytest.approx(alone, rel=1e-9)
    step = dp_accounting.PoissonSampledDpEvent(
        1 / 6, dp_accounting.GaussianDpEvent(plan.noise_multiplier)
    )
    independent.compose(step, 60)
    assert plan.epsilon == pytest.approx(independent.get_epsilon(1e-4), rel=1e-9)


@pytest.mark.slow
def test_covariances_are_a_third_query():
    two, three = (
        make_plan(dataclasses.replace(MOMENTS, queries=moments(count)))
        for count in (2, 3)
    )
    assert three.noise_multiplier > two.noise_multiplier
    texts = ("moments (3 sums at 5.0)", "moments (2 sums at 5.0)")
    assert ("queries", *texts) in three.differences(two)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("moments", 0, "sums of the query moments is 0; allowed: an integer >= 1"),
        ("moments", True, "sums of the query moments is True"),
        ("moments\nepsilon = 0", 2, "the query's name is"),
        ("", 2, "the query's name is"),
    ],
)
def test_bad_queries(name, count, message):
    with pytest.raises(InputError, match=message):
        Query(name, count, 5.0)


def test_names_of_queries_differ():
    twice = (*moments(), *moments(3))
    with pytest.raises(InputError, match="moments, moments; allowed: names that"):
        make_plan(changed(queries=twice))


def test_several_queries_compose_in_order():
    both = (*moments(), Query("counts", 1, 8.0))
    plan = make_plan(changed(queries=both, accountant="rdp", noise_multiplier=2.0))
    assert [(e.num_steps, e.noise_multiplier) for e in plan.events(0)][:2] == [
        (2, 5.0),
        (1, 8.0),
    ]
    phases = [(1.0, 5.0, 2), (1.0, 8.0, 1), (1 / 6, 2.0, 60)]
    assert plan.epsilon == pytest.approx(independent_epsilon(phases, 1e-4), rel=1e-9)
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    text = " ".join(plan.queries[1].in_words().split())
    assert text.startswith("Counts: before the first step, 1 query of all images was")


def test_given_noise_beside_moments():
    plan = make_plan(dataclasses.replace(MOMENTS, noise_multiplier=2.0))
    assert plan.epsilon > make_plan(changed(noise_multiplier=2.0)).epsilon
    with pytest.raises(InputError, match=r"noise_multiplier is 2\.0, which spends"):
        make_plan(
            dataclasses.replace(MOMENTS, noise_multiplier=2.0, epsilon=plan.epsilon / 2)
        )


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (0.0, "noise_multiplier of the query moments is 0.0"),
        (-1.0, "noise_multiplier of the query moments is -1.0"),
        (math.nan, "noise_multiplier of the query moments is nan"),
        ("a", "noise_multiplier of the query moments is 'a'"),
        (10**400, "noise_multiplier of the query moments is 1000"),
        (0.1, "before the first step are moments .*, which spends epsilon"),
        (1e-9, "before the first step are moments .*, which spends epsilon inf"),
    ],
)
def test_bad_noise_of_moments(noise, message):
    with pytest.raises(InputError, match=message):
        make_plan(changed(queries=moments(noise_multiplier=noise)))


def test_a_plan_with_moments_as_json():
    plan = make_plan(MOMENTS)
    fields = json.loads(json.dumps(plan.to_dict()))
    assert fields["queries"] == [
        {"name": "moments", "count": 2, "noise_multiplier": 5.0}
    ]
    assert PrivacyPlan.from_dict(fields) == plan
    assert PrivacyPlan.from_dict(fields).epsilon_spent(60) == plan.epsilon
    assert "queries" not in make_plan(CONFIG).to_dict()
    for bad in ({}, [{"name": "moments"}], [3]):
        with pytest.raises(InputError):
            PrivacyPlan.from_dict(fields | {"queries": bad})


def test_plans_differ_in_moments():
    plan = make_plan(changed(noise_multiplier=2.0))
    other = make_plan(dataclasses.replace(MOMENTS, noise_multiplier=2.0))
    assert ("queries", "none", "moments (2 sums at 5.0)") in plan.differences(other)


@pytest.mark.slow
def test_an_extension_counts_the_moments_once():
    plan = make_plan(dataclasses.replace(MOMENTS, accountant="rdp"))
    extended = extend_plan(plan, num_steps=30, epsilon=12)
    assert 11.9 < extended.epsilon <= 12
    assert extended.queries == plan.queries
    assert [event.num_steps for event in extended.events(70)] == [2, 60, 10]
    phases = [
        (1 / 6, plan.noise_multiplier, 60),
        (1 / 6, extended.noise_multiplier, 30),
        (1.0, 5.0, 2),
    ]
    assert extended.epsilon == pytest.approx(
        independent_epsilon(phases, 1e-4), rel=1e-9
    )


@pytest.mark.parametrize(
    "value",
    [10**400, 10**5000, math.nan, "inf"],
    ids=["long", "longer", "nan", "text"],
)
@pytest.mark.parametrize(
    "name",
    [
        "num_examples",
        "batch_size",
        "epsilon",
        "delta",
        "l2_clip_norm",
        "epochs",
        "noise_multiplier",
        "noise_multiplicity",
    ],
)
def test_numbers_of_any_size_are_one_sentence(name, value):
    config = dataclasses.replace(CONFIG, accountant="rdp", **{name: value})
    with pytest.raises(InputError) as e:
        make_plan(config)
    assert len(str(e.value)) < 600
    assert "\n" not in str(e.value)
