import dataclasses
import json
import math
import warnings

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.privacy.ledger import Ledger, read_ledger
from dpdm_jax.privacy.plan import PrivacyConfig, extend_plan, make_plan
from dpdm_jax.privacy.statements import (
    extension_text,
    format_epsilon,
    guess_bound,
    make_statement,
    make_statement_of,
    phase_lines,
    statement,
    statement_fields,
    statement_of,
)
from dpdm_jax.privacy.tuning import Selection, Tuning

CONFIG = PrivacyConfig(
    num_examples=1500,
    batch_size=256,
    epsilon=10,
    delta=1e-4,
    l2_clip_norm=0.5,
    epochs=10,
    noise_multiplicity=8,
)


def make_quietly(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_plan(dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.0000"),
        (0.1, "0.1000"),
        (0.9999, "0.9999"),
        (0.99991, "1.0000"),
        (9.99995311, "10.0000"),
        (10, "10.0000"),
        (10.00001, "10.0001"),
        (1e-9, "0.0001"),
        (1.23454999, "1.2346"),
        (2.5e300, "25" + "0" * 299 + ".0000"),
        (math.inf, "infinity"),
    ],
)
def test_epsilon_is_never_understated(value, text):
    assert format_epsilon(value) == text


@pytest.mark.slow
def test_statement_holds_every_fact():
    plan = make_quietly()
    text = " ".join(statement(plan, 30).split())
    for fact in (
        f"epsilon = {format_epsilon(plan.epsilon_spent(30))}, delta = 0.0001",
        f"epsilon = {format_epsilon(plan.epsilon)}; the budget is 10.0000",
        "whose record is replaced by nothing in one of them (zero-out)",
        "The number of records, the sampling probability, the steps and the divisor "
        "are public constants",
        "add or remove one",
        "one training image",
        "Poisson",
        "q = 0.16666666666666666",
        "No truncation",
        "T = 30 taken, 60 planned",
        f"sigma = {plan.noise_multiplier!r}",
        f"sigma * C = {plan.noise_stddev!r}",
        "C = 0.5",
        "K = 8",
        "constant 250",
        "1500 training images",
        "Accountant: PLD, dp-accounting 0",
        "Outside this guarantee:",
        "Tuning:",
        "Diagnostics:",
        "the number of training images",
        "floating-point noise",
    ):
        assert fact in text, fact
    assert "NOT PRIVATE" not in text
    assert "Caution" not in text


def test_statement_of_exact_arithmetic_says_so():
    plan = make_quietly(coordinates=5000)
    text = " ".join(statement(plan, 30).split())
    assert "Arithmetic: exact." in text
    assert "5000 numbers in a sum at most" in text
    assert "floating-point" not in text
    assert "Randomness: noise and batches come from pseudo-random generators" in text


def test_lines_fit_a_terminal():
    assert max(map(len, statement(make_quietly(), 60).splitlines())) <= 80


@pytest.mark.parametrize("changes", [{}, {"noise_multiplier": 0}])
def test_a_non_private_run_says_so_and_claims_nothing(changes):
    text = statement(make_quietly(epsilon=math.inf, **changes), 30)
    assert text.startswith("NOT PRIVATE")
    assert "epsilon is infinite" in text
    assert "epsilon =" not in text
    assert "Noise: none." in text
    assert ("Clipping: none." in text) == (not changes)


def test_fixed_keys_take_the_claim_back():
    text = statement(make_quietly(), 30, not_private=["the keys are fixed"])
    assert text.startswith("NOT PRIVATE")
    assert "the keys are fixed" in text
    assert "epsilon =" not in text


@pytest.mark.slow
def test_a_large_delta_is_cautioned_against():
    text = " ".join(statement(make_quietly(delta=0.01), 30).split())
    assert "Caution: delta is 0.01, not below 1/1500" in text


def test_composed_epsilon_replaces_the_plans():
    plan = make_quietly()
    text = statement(plan, 60, spent=12.5)
    assert text.startswith("Differentially private: epsilon = 12.5000, delta")


@pytest.mark.parametrize("steps", [-1, 61, 1.5])
def test_bad_steps(steps):
    with pytest.raises(InputError, match="steps is"):
        statement(make_quietly(), steps)


def test_statement_of_a_ledger_counts_what_it_authorised(tmp_path):
    plan = make_quietly()
    ledger = Ledger.create(tmp_path / "privacy.json", plan)
    ledger.authorize(30)
    assert statement_of(ledger.record) == statement(plan, 30)
    fields = statement_fields(ledger.record)
    assert fields["epsilon"] == format_epsilon(plan.epsilon_spent(30))
    assert fields["epsilon_rdp"] == format_epsilon(plan.epsilon_spent(30, "rdp"))
    assert fields["mechanism"]["steps_authorized"] == 30
    assert fields["mechanism"]["steps_planned"] == 60
    json.dumps(fields, allow_nan=False)


def test_fields_without_guarantee_are_json_too(tmp_path):
    plan = make_quietly(epsilon=math.inf)
    ledger = Ledger.create(tmp_path / "privacy.json", plan)
    fields = statement_fields(ledger.record)
    assert fields["private"] is False
    assert fields["not_private"] == ["epsilon is infinite"]
    assert fields["epsilon"] == fields["epsilon_pld"] == "infinity"
    assert fields["mechanism"]["l2_clip_norm"] == "inf"
    assert fields["mechanism"]["noise"] == "none"
    json.dumps(fields, allow_nan=False)


def test_tuning_is_stated():
    plan = make_quietly()
    tuning = Tuning(selection=Selection(20.0, 1.0))
    text = " ".join(statement(plan, 60, spent=12.5, tuning=tuning).split())
    assert "Tuning is counted: this run as the best of a random number" in text
    assert "(geometric, 20 expected)" in text
    assert "Accountant: RDP" in text
    assert "More tuning:" in text
    assert "is not counted" not in text


def test_parts_are_those_of_the_text():
    plan = make_quietly()
    parts = make_statement(plan, 30)
    text = " ".join(statement(plan, 30).split())
    assert parts.to_text() == statement(plan, 30)
    assert parts.epsilon == plan.epsilon_spent(30)
    assert parts.not_private == ()
    for sentence in (*parts.paragraphs, *parts.mechanism, *parts.outside):
        assert " ".join(sentence.split()) in text


def test_parts_of_a_ledger_count_tuning_too(tmp_path):
    plan = make_quietly()
    path = tmp_path / "privacy.json"
    ledger = Ledger.create(path, plan)
    ledger.authorize(30)
    tuning = Tuning(runs=(), selection=Selection(2.0, 1.0))
    parts = make_statement_of(ledger.record, tuning)
    assert parts.epsilon == tuning.epsilon(ledger.record)
    assert parts.epsilon > make_statement_of(ledger.record).epsilon
    assert parts.to_text() == statement_of(ledger.record, tuning)
    assert parts.outside[0].startswith("More tuning")


def test_parts_without_a_guarantee():
    parts = make_statement(make_quietly(epsilon=math.inf), 30, not_private=["keys"])
    assert parts.epsilon == math.inf
    assert parts.not_private == ("keys", "epsilon is infinite")
    assert parts.outside == ()


@pytest.mark.parametrize(
    ("epsilon", "delta", "bound"),
    [
        (0, 0, 0.5),
        (math.log(3), 0, 0.75),
        (math.log(3), 0.1, 0.775),
        (0, 1, 1),
        (math.inf, 0, 1),
        (2000, 1e-5, 1),
    ],
)
def test_bound_of_a_guess(epsilon, delta, bound):
    assert guess_bound(epsilon, delta) == pytest.approx(bound, abs=1e-12)


def test_bound_of_a_guess_is_reached_by_randomised_response():
    # With probability delta tell the truth and show it; else tell it with probability
    # e / (1 + e), e = exp(epsilon): the tightest (epsilon, delta) mechanism there is.
    epsilon, delta = 1.5, 0.05
    e = math.exp(epsilon)
    right = delta + (1 - delta) * e / (1 + e)
    assert guess_bound(epsilon, delta) == pytest.approx(right, abs=1e-12)


@pytest.fixture(scope="module")
def longer():
    return extend_plan(
        make_quietly(accountant="rdp"), num_steps=30, epsilon=12, noise_multiplier=3.5
    )


def test_statement_of_an_extended_run_has_each_phase_and_the_total(tmp_path, longer):
    ledger = Ledger.create(tmp_path / "privacy.json", longer.extends)
    ledger.authorize(60)
    ledger.extend(longer)
    ledger.authorize(75)
    text = " ".join(statement_of(ledger.record).split())
    total = format_epsilon(longer.epsilon_spent(75))
    for fact in (
        f"epsilon = {total}, delta = 0.0001",
        "after 75 of 90 planned steps",
        f"epsilon = {format_epsilon(longer.epsilon)}; the budget is 12.0000",
        f"Phase 1: 60 steps at noise multiplier sigma = "
        f"{longer.extends.noise_multiplier!r}; up to its end epsilon = "
        f"{format_epsilon(longer.extends.epsilon)} of a budget of 10.0000.",
        f"Phase 2: 30 steps at noise multiplier sigma = 3.5; up to its end epsilon = "
        f"{format_epsilon(longer.epsilon)} of a budget of 12.0000.",
        "T = 75 taken, 90 planned",
        "Steps 1 to 60: Noise: Gaussian",
        "Steps 61 to 90: Noise: Gaussian, noise multiplier sigma = 3.5, standard "
        "deviation sigma * C = 1.75",
    ):
        assert fact in text, fact
    fields = statement_fields(ledger.record)
    assert fields["epsilon"] == fields["epsilon_rdp"] == total
    assert fields["epsilon_planned"] == format_epsilon(longer.epsilon)
    assert fields["epsilon_budget"] == "12.0000"
    mechanism = fields["mechanism"]
    assert (mechanism["steps_authorized"], mechanism["steps_planned"]) == (75, 90)
    assert "noise_multiplier" not in mechanism  # there is no one figure
    assert [
        (phase["first_step"], phase["steps_planned"], phase["noise_multiplier"])
        for phase in mechanism["phases"]
    ] == [(0, 60, longer.extends.noise_multiplier), (60, 30, 3.5)]
    assert [query["authorized_steps"] for query in fields["queries"]] == [60, 15]
    json.dumps(fields, allow_nan=False)


def test_an_extension_is_announced_with_old_new_and_total_epsilon(tmp_path, longer):
    ledger = Ledger.create(tmp_path / "privacy.json", longer.extends)
    ledger.authorize(30)
    spent, *phases, total = extension_text(ledger.record, longer).splitlines()
    old = format_epsilon(longer.extends.epsilon_spent(30))
    assert spent == f"Spent so far: epsilon = {old} after 30 of 60 planned steps."
    assert phases == phase_lines(longer)
    assert total.startswith(
        "Total of all 90 steps, composed: epsilon = "
        f"{format_epsilon(longer.epsilon)}, delta = 0.0001 (RDP, dp-accounting "
    )
    Ledger.open(tmp_path / "privacy.json", longer.extends, fixed_keys=True)
    assert "NOT PRIVATE" in extension_text(
        read_ledger(tmp_path / "privacy.json"), longer
    )
