"""A public stage: ordinary training, and everything that is said of it."""

import json
import math
import warnings

import pytest

from dpdm_jax import modes, planning
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import PrivacyConfig, PrivacyPlan, Query, make_plan, read_ledger
from dpdm_jax.privacy.statements import statement_fields, statement_of
from dpdm_jax.release.__main__ import main as release_command
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify
from dpdm_jax.report.page import write_report
from dpdm_jax.training.loop import train

NAME = "digits, UCI"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("public") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is wrong with it
        train(tiny_config(data__public=NAME), folder)
    return folder


def test_the_plan_has_no_budget(tiny_config):
    config = tiny_config(data__public=NAME)
    plan = planning.privacy_plan(
        config, 1437, build_model(config, (8, 8, 1), of_classes(10))
    )
    assert plan.public_data == NAME
    assert (plan.noise_multiplier, plan.l2_clip_norm) == (0, math.inf)
    assert plan.epsilon == plan.target_epsilon == math.inf
    assert plan.cautions() == ()
    assert PrivacyPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    private = tiny_config()
    other = planning.privacy_plan(
        private, 1437, build_model(private, (8, 8, 1), of_classes(10))
    )
    assert ("public_data", NAME, "") in plan.differences(other)
    assert "public_data" not in other.to_dict()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_multiplier": 1.0}, "the data is public .*; allowed: neither"),
        ({"queries": (Query("moments", 2, 5.0),)}, "and 1 queries; allowed: neither"),
        ({"public_data": "a\nepsilon = 0"}, "name of the public data is"),
    ],
)
def test_public_data_have_no_noise_and_a_plain_name(changes, message):
    fields = {"num_examples": 100, "batch_size": 10, "epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(InputError, match=message):
        make_plan(
            PrivacyConfig(**fields | {"epochs": 1, "public_data": NAME} | changes)
        )


@pytest.mark.slow
def test_a_ledger_of_public_data_claims_nothing(workdir):
    record = read_ledger(workdir / "privacy.json")
    assert record.epsilon_spent() == math.inf
    assert record.not_private == (f"the data is public ({NAME})",)
    text = " ".join(statement_of(record).split())
    assert text.startswith(f"Public data: {NAME}")
    assert "None of it is protected" in text
    assert "NOT PRIVATE" not in text
    fields = statement_fields(record)
    assert fields["private"] is False
    assert fields["public_data"] == NAME


@pytest.mark.slow
def test_no_gradient_norms_are_logged(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(lines[-1])
    assert math.isfinite(logged["private/loss"])
    assert "private/grad_norm" not in logged


@pytest.mark.slow
def test_it_is_released_and_says_so(workdir, tiny_config, capsys):
    config = tiny_config(data__public=NAME)
    folder = release(config, workdir)
    outcome = verify(folder)
    assert outcome.failures == ()
    assert release_command(["verify", str(folder)]) in (0, None)
    assert f"It is of public data ({NAME})" in capsys.readouterr().out
    assert (folder / "PRIVACY.md").read_text().count(f"Public data: {NAME}") == 1
    page = write_report(workdir, private=False).read_text()
    assert "PUBLIC DATA" in page
    assert "NOT PRIVATE" not in page


@pytest.mark.slow
def test_a_run_does_not_change_between_public_and_private(workdir, tiny_config):
    with pytest.raises(InputError, match="public"):
        train(tiny_config(), workdir)


@pytest.mark.slow
def test_statement_is_printed(workdir, capsys):
    modes._print_statement(workdir)
    assert f"Public data: {NAME}" in capsys.readouterr().out
