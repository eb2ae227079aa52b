"""What a plan, its ledger and its statement say of a trained part."""

import dataclasses
import json

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    Ledger,
    PrivacyConfig,
    PrivacyPlan,
    TrainedPart,
    extend_plan,
    make_plan,
    read_ledger,
    statement,
    statement_fields,
)

PART = TrainedPart("attention:9-16,condition", 9_788, 0, 90_803)
CONFIG = PrivacyConfig(
    *(1000, 100, 10.0, 1e-5),
    epochs=1,
    accountant="rdp",
    coordinates=9_788,
    trained=PART,
)


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIG)


def test_it_is_stored_and_part_of_the_mechanism(plan, tmp_path):
    whole = make_plan(dataclasses.replace(CONFIG, trained=None))
    assert "trained" not in whole.to_dict()
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.differences(whole) == [
        ("trained", "9788 of 90803 (attention:9-16,condition)", "all")
    ]
    # The guarantee is that of the sums' size, whatever they are of.
    assert plan.epsilon == whole.epsilon
    path = tmp_path / "privacy.json"
    Ledger.create(path, plan)
    record = read_ledger(path)
    assert record.plan.trained == PART
    assert statement_fields(record)["mechanism"]["trained"] == PART.to_dict()
    with pytest.raises(InputError, match=r"trained '9788 of 90803 .* -> 'all'"):
        Ledger.open(path, whole)


def test_an_extension_trains_the_same(plan):
    longer = extend_plan(plan, num_steps=5, epsilon=20.0)
    assert longer.trained == PART
    other = dataclasses.replace(PART, parameters=9_789)
    with pytest.raises(InputError, match="the extension changes trained"):
        dataclasses.replace(longer, trained=other)


def test_statement_has_the_numbers(plan):
    text = " ".join(statement(plan, 10).split())
    assert (
        "Trained: 9788 parameters, chosen by attention:9-16,condition, for a network "
        "of 90803; no step changed others. "
    ) in text
    assert "adapters" not in text
    of_adapters = TrainedPart("lora:8", 700, 600, 90_803)
    text = statement(dataclasses.replace(plan, trained=of_adapters), 10)
    assert "600 of them are those of low-rank adapters, whose products are added" in (
        " ".join(text.split())
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selector": "all. Differentially private"}, "selector of what is trained is"),
        ({"selector": ""}, "selector of what is trained is ''"),
        ({"parameters": 0}, "trained part's parameters is 0; allowed"),
        ({"adapters": -1}, "trained part's adapters is -1; allowed"),
        ({"of": 0.5}, "trained part's of is 0.5; allowed"),
        ({"more": 1}, "the fields of the trained part are not"),
    ],
)
def test_bad_parts(change, message):
    with pytest.raises(InputError, match=message):
        TrainedPart.from_dict(PART.to_dict() | change)
