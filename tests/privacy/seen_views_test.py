"""What a plan, its ledger and its statement say of the views of an image."""

import dataclasses
import json

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import (
    Ledger,
    PrivacyConfig,
    PrivacyPlan,
    SeenViews,
    extend_plan,
    make_plan,
    read_ledger,
    statement,
    statement_fields,
)

VIEWS = SeenViews(16, 4, True)
CONFIG = PrivacyConfig(
    *(1000, 100, 10.0, 1e-5),
    epochs=1,
    accountant="rdp",
    noise_multiplicity=32,
    views=VIEWS,
)


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIG)


def test_they_are_stored_and_cost_nothing(plan, tmp_path):
    without = make_plan(dataclasses.replace(CONFIG, views=None))
    assert "views" not in without.to_dict()
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.epsilon == without.epsilon
    path = tmp_path / "privacy.json"
    Ledger.create(path, plan)
    record = read_ledger(path)
    assert record.plan.views == VIEWS
    assert statement_fields(record)["mechanism"]["views"] == VIEWS.to_dict()
    assert extend_plan(plan, num_steps=5, epsilon=20.0).views == VIEWS


def test_a_ledger_that_does_not_state_them_counts_the_same_run(plan, tmp_path):
    """Ledgers that were begun before they were stated."""
    path = tmp_path / "privacy.json"
    Ledger.create(path, make_plan(dataclasses.replace(CONFIG, views=None)))
    assert Ledger.open(path, plan).record.plan.views is None


def test_the_statement_has_them(plan):
    text = " ".join(statement(plan, 10).split())
    assert (
        "Views: a step sees 16 views of each image, cropped at random, 4 pixels beyond "
        "its edges and mirrored half the time. They are averaged with the noise draws, "
        "before the vector is clipped."
    ) in text
    mirrored = dataclasses.replace(plan, views=SeenViews(1, 0, True))
    text = " ".join(statement(mirrored, 10).split())
    assert "sees 1 view of each image, mirrored half the time." in text
    assert "Views:" not in statement(dataclasses.replace(plan, views=None), 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "the views' count is 0; allowed"),
        ({"crop": -1}, "the views' crop is -1; allowed"),
        ({"crop": 1.5}, "the views' crop is 1.5; allowed"),
        ({"flip": 1}, "the views' crop and flip are 4 and 1; allowed"),
        ({"crop": 0, "flip": False}, "crop and flip are 0 and False; .* not both no"),
        ({"more": 1}, "the fields of the views are not"),
    ],
)
def test_bad_views(change, message):
    with pytest.raises(InputError, match=message):
        SeenViews.from_dict(VIEWS.to_dict() | change)
