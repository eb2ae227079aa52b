import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
import warnings

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting
from dpdm_jax.privacy import ledger as ledger_lib
from dpdm_jax.privacy.batch_selection import PoissonSampling
from dpdm_jax.privacy.ledger import Ledger, LedgerEvent, LedgerRecord, read_ledger
from dpdm_jax.privacy.plan import PrivacyConfig, extend_plan, make_plan
from dpdm_jax.privacy.queries import Query

CONFIG = PrivacyConfig(
    num_examples=1500, batch_size=256, epsilon=10, delta=1e-4, epochs=10
)

# As version 0.1.0 wrote it.
LEDGER_OF_FORMAT_1 = """
{
  "format": "dpdm_jax privacy ledger 1",
  "run_id": "9a909aafb23e96c43deed3715ad47830",
  "not_private": false,
  "fixed_keys": false,
  "plan": {
    "num_examples": 1500,
    "sampling_probability": 0.16666666666666666,
    "num_steps": 60,
    "expected_batch_size": 250,
    "noise_multiplier": 0.945042,
    "l2_clip_norm": 1.0,
    "relation": "add_or_remove_one",
    "delta": 0.0001,
    "target_epsilon": 10.0,
    "accountant": "rdp",
    "epsilon": 9.999992869450274,
    "noise_multiplicity": 1
  },
  "events": [
    {
      "name": "training",
      "sampling_probability": 0.16666666666666666,
      "planned_steps": 60,
      "noise_multiplier": 0.945042,
      "authorized_steps": 40
    }
  ],
  "software": {
    "accountant": "dp-accounting 0.6.0",
    "dpdm_jax": "0.1.0"
  },
  "checksum": "91db36220d6b005d17438e5664fdedb29de062df004c0b3c82d10f0059004e4a"
}
"""


@pytest.fixture(scope="module")
def plan():
    return make_plan(CONFIG)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "privacy.json"


def test_a_new_ledger_counts_nothing(path, plan):
    ledger = Ledger.create(path, plan)
    assert ledger.authorized_steps == 0
    assert ledger.epsilon_spent() == 0
    assert ledger.plan == plan
    assert ledger.record.not_private == ()
    assert read_ledger(path) == ledger.record
    assert len(bytes.fromhex(ledger.run_id)) == 16


def test_every_run_has_its_own_id(tmp_path, plan):
    ids = {Ledger.create(tmp_path / f"{i}.json", plan).run_id for i in range(5)}
    assert len(ids) == 5


def test_authorised_steps_are_on_disk_when_the_call_returns(path, plan):
    ledger = Ledger.create(path, plan)
    for steps in (1, 2, 30, 60):
        ledger.authorize(steps)
        record = read_ledger(path)
        assert record.authorized_steps == steps == ledger.authorized_steps
        assert record.epsilon_spent() == plan.epsilon_spent(steps)
        assert ledger.epsilon_spent() == record.epsilon_spent()
    assert record.run_id == ledger.run_id
    assert os.listdir(path.parent) == [path.name]


def test_the_count_never_decreases(path, plan):
    ledger = Ledger.create(path, plan)
    ledger.authorize(40)
    before = path.read_bytes()
    for steps in (0, 10, 40):
        ledger.authorize(steps)
    assert path.read_bytes() == before
    assert ledger.authorized_steps == 40


def test_an_outdated_object_does_not_undo_another_ones_count(path, plan):
    outdated = Ledger.create(path, plan)
    Ledger.open(path, plan).authorize(40)
    outdated.authorize(10)
    assert read_ledger(path).authorized_steps == 40
    assert outdated.authorized_steps == 40


def test_the_budget_is_a_hard_stop(path, plan):
    ledger = Ledger.create(path, plan)
    ledger.authorize(60)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"budget is spent: step 61 .* 60 planned"):
        ledger.authorize(61)
    with pytest.raises(InputError, match="budget is spent"):
        Ledger.open(path, plan).authorize(61)
    assert path.read_bytes() == before
    assert ledger.epsilon_spent() == plan.epsilon


def test_reading_changes_nothing(path, plan):
    Ledger.create(path, plan).authorize(7)
    before = path.read_bytes(), path.stat().st_mtime_ns, os.listdir(path.parent)
    ledger = Ledger.open(path, plan)
    ledger.epsilon_spent()
    read_ledger(path).epsilon_spent("rdp")
    after = path.read_bytes(), path.stat().st_mtime_ns, os.listdir(path.parent)
    assert after == before


def test_resume_keeps_the_run(path, plan):
    first = Ledger.create(path, plan)
    first.authorize(12)
    second = Ledger.open(path, plan)
    assert second.record == first.record
    second.authorize(13)
    assert read_ledger(path).authorized_steps == 13


def test_creating_over_a_ledger_is_refused(path, plan):
    Ledger.create(path, plan).authorize(5)
    with pytest.raises(InputError, match="exists; allowed: resume"):
        Ledger.create(path, plan)
    assert read_ledger(path).authorized_steps == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ({"l2_clip_norm": 2.0}, ["l2_clip_norm 1.0 -> 2.0"]),
        ({"noise_multiplier": 3.0}, ["noise_multiplier 0.", " -> 3.0"]),
        (
            {"epochs": 20, "noise_multiplier": 3.0},
            ["num_steps 60 -> 120", "noise_mult"],
        ),
        ({"batch_size": 100}, ["sampling_probability 0.16", "expected_batch_size 250"]),
        ({"num_examples": 1499}, ["num_examples 1500 -> 1499"]),
        ({"delta": 1e-5}, ["delta 0.0001 -> 1e-05"]),
        ({"epsilon": 9}, ["target_epsilon 10.0 -> 9.0"]),
        ({"accountant": "rdp"}, ["accountant 'pld' -> 'rdp'"]),
    ],
)
def test_another_plan_is_refused_with_the_fields(path, plan, change, listed):
    Ledger.create(path, plan).authorize(5)
    before = path.read_bytes()
    with pytest.raises(InputError) as error:
        Ledger.open(path, make_plan(dataclasses.replace(CONFIG, **change)))
    for text in listed:
        assert text in str(error.value)
    assert path.read_bytes() == before


def test_exact_arithmetic_is_in_the_ledger(path):
    exact = make_plan(dataclasses.replace(CONFIG, coordinates=5000))
    ledger = Ledger.create(path, exact)
    ledger.authorize(60)
    record = read_ledger(path)
    assert record.epsilon_spent() == exact.epsilon
    assert [e.coordinates for e in record.accounted_events()] == [5000]
    rewrite(path, lambda fields: fields["events"][0].pop("coordinates"))
    with pytest.raises(InputError, match="not the plan's mechanism"):
        read_ledger(path)


def test_a_run_begun_with_float_noise_does_not_go_on(path, plan):
    Ledger.create(path, plan).authorize(5)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"floating-point noise.*; allowed: finish it"):
        Ledger.open(path, make_plan(dataclasses.replace(CONFIG, coordinates=5000)))
    assert path.read_bytes() == before


def test_noise_multiplicity_may_change(path, plan):
    Ledger.create(path, plan)
    Ledger.open(path, dataclasses.replace(plan, noise_multiplicity=8)).authorize(3)
    assert read_ledger(path).plan.noise_multiplicity == plan.noise_multiplicity


def test_a_replaced_ledger_stops_the_run(path, plan):
    ledger = Ledger.create(path, plan)
    path.unlink()
    other = Ledger.create(path, plan)
    with pytest.raises(InputError, match="replaced by another run"):
        ledger.authorize(1)
    assert read_ledger(path) == other.record


def test_a_deleted_ledger_stops_the_run(path, plan):
    ledger = Ledger.create(path, plan)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        ledger.authorize(1)
    assert not path.exists()


def test_fixed_keys_mark_the_run_for_good(path, plan):
    Ledger.create(path, plan)
    assert Ledger.open(path, plan).record.not_private == ()
    Ledger.open(path, plan, fixed_keys=True)
    ledger = Ledger.open(path, plan)
    assert ledger.record.fixed_keys
    assert "fixed" in ledger.record.not_private[0]
    assert ledger.epsilon_spent() == 0
    ledger.authorize(1)
    assert ledger.epsilon_spent() == math.inf
    assert json.loads(path.read_text())["not_private"] is True


def test_non_private_run(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = make_plan(dataclasses.replace(CONFIG, epsilon=math.inf))
    ledger = Ledger.create(path, plan)
    ledger.authorize(2)
    record = read_ledger(path)
    assert record.plan == plan
    assert record.not_private == ("epsilon is infinite",)
    assert record.epsilon_spent() == math.inf
    assert json.loads(path.read_text())["not_private"] is True


def test_several_queries_compose(plan):
    histogram = LedgerEvent("histogram", PoissonSampling(1.0, 1), 5.0, 1)
    training = LedgerEvent("training", plan.sampling, plan.noise_multiplier, 60)
    record = LedgerRecord("00", plan, (histogram, training), False, {})
    expected = accounting.epsilon_of_events(
        [(PoissonSampling(1.0, 1), 5.0, 1), (plan.sampling, plan.noise_multiplier, 60)],
        plan.delta,
    )
    assert record.epsilon_spent() == expected > plan.epsilon
    assert LedgerRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_the_file_holds_no_surprises(path, plan):
    # Whatever is added here must be public: a ledger never holds a secret.
    Ledger.create(path, plan)
    fields = json.loads(path.read_text())
    assert fields.keys() == {
        "format",
        "run_id",
        "not_private",
        "fixed_keys",
        "plan",
        "events",
        "software",
        "checksum",
    }
    assert fields["software"].keys() == {"accountant", "dpdm_jax"}
    assert fields["software"]["accountant"].startswith("dp-accounting ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b'{"plan": NaN}',
        b"[" * 100_000,
        b"1" * 10_000,
    ],
)
def test_a_damaged_file_is_refused(path, plan, content):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"privacy.json is damaged .*; allowed"):
        Ledger.open(path, plan)
    assert path.read_bytes() == content


def test_every_truncation_and_changed_value_is_noticed(path, plan):
    Ledger.create(path, plan).authorize(55)
    text = path.read_text()
    for length in range(len(text.rstrip())):
        path.write_text(text[:length])
        with pytest.raises(InputError, match="damaged"):
            read_ledger(path)
    contents = json.loads(text)
    for i, character in enumerate(text):
        if character.isdigit():
            edited = text[:i] + str((int(character) + 1) % 10) + text[i + 1 :]
            if json.loads(edited) == contents:  # beyond the precision of a float
                continue
            path.write_text(edited)
            with pytest.raises(InputError, match="damaged"):
                read_ledger(path)


def rewrite(path, edit):
    """Edits a ledger as someone would who knows of its checksum."""
    fields = json.loads(path.read_text())
    edit(fields)
    del fields["checksum"]
    fields["checksum"] = ledger_lib._checksum(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f["events"].clear(), "not the plan's"),
        (lambda f: f["events"].append(3), "malformed"),
        (lambda f: f["events"][0].update(extension_id=3), "extension_id is 3"),
        (lambda f: f["events"][0].update(extension_id="00"), "have an extension_id"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 2"), "another kind"),
        (lambda f: f["events"][0].pop("name"), "malformed"),
        (lambda f: f.update(events=3), "malformed"),
        (
            lambda f: f["events"][0].update(authorized_steps=61),
            "at most the planned 60",
        ),
        (
            lambda f: f["events"][0].update(authorized_steps=-1),
            "authorized_steps is -1",
        ),
        (lambda f: f["events"][0].update(name=3), "event name is 3"),
        (lambda f: f["events"][0].update(noise_multiplier=9.0), "not the plan's"),
        (lambda f: f["plan"].update(delta=2), "delta is 2"),
        (lambda f: f["plan"].pop("delta"), "allowed: exactly"),
        (lambda f: f.update(format="other"), "format is 'other'"),
        (lambda f: f.update(run_id=3), "run_id"),
        (lambda f: f.update(fixed_keys="no"), "fixed_keys"),
        (lambda f: f.update(not_private=True), "not_private contradicts"),
        (lambda f: f.update(more=1), "the fields are not"),
    ],
)
def test_consistent_nonsense_is_refused(path, plan, edit, message):
    Ledger.create(path, plan)
    rewrite(path, edit)
    with pytest.raises(InputError, match=message):
        read_ledger(path)


def mechanism(**changes):
    """Changes the mechanism in plan and event alike, but not what is claimed of it."""
    names = {"num_steps": "planned_steps"}

    def edit(fields):
        fields["plan"].update(changes)
        for name, value in changes.items():
            name = names.get(name, name)
            if name in fields["events"][-1]:
                fields["events"][-1][name] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (mechanism(noise_multiplier=1e-7), "practically without noise"),
        (mechanism(noise_multiplier=0.5), "its mechanism gives"),
        (mechanism(noise_multiplier=10**400), "noise_multiplier is 1000"),
        (mechanism(l2_clip_norm=1e-300), "noise's standard deviation"),
        (mechanism(l2_clip_norm=1e300), "noise's standard deviation"),
        (mechanism(num_examples=10**400), "num_examples is 1000"),
        (mechanism(expected_batch_size=10**400), "expected_batch_size is 1000"),
        (mechanism(noise_multiplicity=10**400), "noise_multiplicity is 1000"),
        (mechanism(num_steps=10**400), "num_steps is 1000"),
        (mechanism(num_steps=10**30), "num_steps is 1000"),
        (mechanism(num_steps=120), "its mechanism gives"),
        (mechanism(sampling_probability=1e-308), "sampling_probability is 1e-308"),
        (mechanism(sampling_probability=0.5), "its mechanism gives"),
        (
            mechanism(queries=[Query("moments", 2, 1e-9).to_dict()]),
            "practically without noise",
        ),
        (mechanism(delta=1e-300), "delta is 1e-300"),
        (mechanism(epsilon=0.001), "plan.epsilon is 0.001; its mechanism gives"),
        (mechanism(epsilon=9.8), "plan.epsilon is 9.8; its mechanism gives"),
        (mechanism(epsilon=10**400), "epsilon is 1000"),
        (lambda f: f["events"][0].update(more=1), "the fields of an event"),
        (
            lambda f: f["events"][0].update(name="training\n\n# epsilon = 0.01"),
            "the event name is",
        ),
        (lambda f: f.update(run_id="1 | 0.01"), "run_id is"),
        (lambda f: f["software"].update(x="1\n# epsilon = 0.01"), "of the software is"),
        (lambda f: f.update(software=[]), "software is no list"),
    ],
)
def test_a_ledger_claims_what_its_mechanism_gives(path, plan, edit, message):
    Ledger.create(path, plan)
    rewrite(path, edit)
    with pytest.raises(InputError, match=message) as e:
        read_ledger(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 700


def test_figures_of_another_accountant_may_differ_a_little_or_overstate(path, plan):
    Ledger.create(path, plan)

    def edit(fields):
        fields["plan"]["epsilon"] *= 0.999

    rewrite(path, edit)
    assert read_ledger(path).plan.epsilon < plan.epsilon

    def of_another(fields):
        fields["plan"] |= {"epsilon": 12.0, "target_epsilon": 12.0}
        fields["software"]["accountant"] = "dp-accounting 0.1"

    rewrite(path, of_another)
    assert read_ledger(path).plan.epsilon == 12
    rewrite(path, mechanism(epsilon=0.9 * plan.epsilon))
    with pytest.raises(InputError, match="its mechanism gives"):
        read_ledger(path)


def test_queries_beside_the_plan_without_noise_are_not_private(plan):
    beside = LedgerEvent("histogram", PoissonSampling(1.0, 1), 1e-7, 1)
    training = LedgerEvent("training", plan.sampling, plan.noise_multiplier, 60)
    record = LedgerRecord("00", plan, (beside, training), False, {})
    assert record.epsilon_spent() == math.inf
    assert record.not_private == ("epsilon is infinite",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"fixed_keys"',
            '"fixed_keys": true, "fixed_keys"',
            "fixed_keys' is there twi",
        ),
        (
            '"authorized_steps": 0',
            '"authorized_steps": 9, "authorized_steps": 0',
            "twice",
        ),
        ('"delta": 0.0001', '"delta": 1e999', "1e999 is out of range"),
        ('"delta": 0.0001', '"delta": NaN', "NaN is not JSON"),
    ],
)
def test_ambiguous_json_is_refused(path, plan, old, new, message):
    Ledger.create(path, plan)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_ledger(path)


def test_a_missing_ledger_is_refused(tmp_path, plan):
    with pytest.raises(InputError, match="cannot be read"):
        Ledger.open(tmp_path / "privacy.json", plan)
    with pytest.raises(InputError, match="cannot be read"):
        read_ledger(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        Ledger.create(tmp_path / "nowhere" / "privacy.json", plan)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_authorises_nothing_and_leaves_the_file(
    path, plan, monkeypatch, function
):
    ledger = Ledger.create(path, plan)
    ledger.authorize(3)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left"):
            ledger.authorize(4)
    assert path.read_bytes() == before
    assert ledger.authorized_steps == 3
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("steps", [-1, 1.0, True, None, "3"])
def test_bad_step_counts_are_refused(path, plan, steps):
    ledger = Ledger.create(path, plan)
    with pytest.raises(InputError, match="up_to_step is"):
        ledger.authorize(steps)


KILL_LOOP = """
import os, pathlib, random, signal, sys, time
from dpdm_jax.privacy.ledger import Ledger, read_ledger
from dpdm_jax.privacy.plan import PrivacyConfig, make_plan

directory, kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
plan = make_plan(PrivacyConfig(
    100, 10, 1e9, 1e-3, num_steps=10**6, accountant="rdp", noise_multiplier=9.0
))
path = directory / "privacy.json"
Ledger.create(path, plan)
rng = random.Random(0)
for _ in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ledger = Ledger.open(path, plan)
        while True:
            step = ledger.authorized_steps + 1
            ledger.authorize(step)
            os.write(writing, step.to_bytes(8, "little"))  # the work itself
    os.close(writing)
    began = os.read(reading, 8)
    time.sleep(rng.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = began + b"".join(iter(lambda: os.read(reading, 65536), b""))
    os.close(reading)
    last = int.from_bytes(done[-8:], "little")
    counted = read_ledger(path).authorized_steps
    assert last <= counted <= last + 1, (last, counted)
print("survived", counted)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_ledger_is_whole_and_never_undercounts(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILL_LOOP, str(tmp_path), "40"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.startswith("survived"), run.stderr
    assert int(run.stdout.split()[1]) >= 40


@pytest.fixture(scope="module")
def first():
    return make_plan(dataclasses.replace(CONFIG, accountant="rdp"))


@pytest.fixture(scope="module")
def longer(first):
    return extend_plan(first, num_steps=30, epsilon=12)


def test_an_extension_is_planned_and_nothing_of_it_counted(path, first, longer):
    ledger = Ledger.create(path, first)
    ledger.authorize(60)
    before = ledger.record
    ledger.extend(longer)
    record = read_ledger(path)
    assert record == ledger.record
    assert record.plan == longer
    assert record.authorized_steps == 60
    assert record.epsilon_spent() == first.epsilon == before.epsilon_spent()
    assert [e.name for e in record.events] == ["training", "extension 1"]
    assert record.events[0] == before.events[0]
    assert len(bytes.fromhex(record.events[1].extension_id)) == 16
    assert record.continues(before)
    assert not before.continues(record)


def test_an_extended_budget_is_counted_and_a_hard_stop(path, first, longer):
    ledger = Ledger.create(path, first)
    ledger.authorize(60)
    ledger.extend(longer)
    ledger.authorize(70)
    assert [e.authorized_steps for e in ledger.record.events] == [60, 10]
    assert ledger.epsilon_spent() == longer.epsilon_spent(70)
    Ledger.open(path, first).authorize(90)
    assert read_ledger(path).epsilon_spent() == longer.epsilon
    with pytest.raises(InputError, match=r"step 91 .* 90 planned"):
        Ledger.open(path, first).authorize(91)


def test_an_unfinished_run_is_extended_behind_its_last_planned_step(
    path, first, longer
):
    ledger = Ledger.create(path, first)
    ledger.authorize(7)
    ledger.extend(longer)
    assert ledger.epsilon_spent() == first.epsilon_spent(7)
    ledger.authorize(61)
    assert [e.authorized_steps for e in ledger.record.events] == [60, 1]
    assert ledger.epsilon_spent() == longer.epsilon_spent(61)


def test_extending_twice(path, first, longer):
    ledger = Ledger.create(path, first)
    ledger.extend(longer)
    once = ledger.record
    ledger.extend(extend_plan(longer, num_steps=5, epsilon=20.0, noise_multiplier=2.0))
    ledger.authorize(93)
    record = read_ledger(path)
    assert [e.authorized_steps for e in record.events] == [60, 30, 3]
    assert len({e.extension_id for e in record.events}) == 3
    assert record.continues(once)


@pytest.mark.parametrize("which", ["first", "stranger", "again"])
def test_a_plan_that_does_not_extend_the_ledgers_is_refused(path, first, longer, which):
    ledger = Ledger.create(path, first)
    ledger.authorize(60)
    plans = {
        "first": first,
        "stranger": extend_plan(
            dataclasses.replace(first, l2_clip_norm=3.0),
            num_steps=30,
            epsilon=20,
            noise_multiplier=4.0,
        ),
        "again": longer,
    }
    if which == "again":
        ledger.extend(longer)
    before = path.read_bytes()
    with pytest.raises(InputError, match="does not extend"):
        ledger.extend(plans[which])
    assert path.read_bytes() == before


def test_resuming_an_extended_run_asks_for_the_plan_that_it_was_begun_with(
    path, first, longer
):
    Ledger.create(path, first).extend(longer)
    assert Ledger.open(path, first).plan == longer
    for other in (longer, dataclasses.replace(first, target_epsilon=12.0)):
        with pytest.raises(InputError, match=r"explicit one \(--mode=extend\)"):
            Ledger.open(path, other)


def test_another_history_is_no_continuation(path, tmp_path, first, longer):
    ledger = Ledger.create(path, first)
    ledger.authorize(60)
    (tmp_path / "copy.json").write_bytes(path.read_bytes())
    copy = Ledger(tmp_path / "copy.json", read_ledger(tmp_path / "copy.json"))
    ledger.extend(longer)
    copy.extend(longer)
    # Two extensions of one run have two names, and with them two sets of secrets.
    assert not copy.record.continues(ledger.record)
    assert not ledger.record.continues(copy.record)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f["events"][0].update(authorized_steps=59), "that come first"),
        (lambda f: f["events"][1].update(noise_multiplier=9.0), "not the plan's"),
        (lambda f: f["events"][1].pop("extension_id"), "have an extension_id"),
        (lambda f: f["events"].pop(0), "not the plan's"),
        (lambda f: f["events"].reverse(), "not the plan's"),
        (lambda f: f["plan"].pop("extends"), "have an extension_id"),
        (lambda f: f["plan"]["extends"].update(delta=1e-9), "changes delta"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 1"), "another kind"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 3"), "another kind"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 4"), "another kind"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 6"), "allowed: dpdm_jax"),
    ],
)
def test_nonsense_about_extensions_is_refused(path, first, longer, edit, message):
    ledger = Ledger.create(path, first)
    ledger.extend(longer)
    ledger.authorize(61)
    rewrite(path, edit)
    with pytest.raises(InputError, match=message):
        read_ledger(path)


def test_ledgers_written_before_there_were_extensions_are_read(path, first, longer):
    path.write_text(LEDGER_OF_FORMAT_1)
    ledger = Ledger.open(path, first)
    assert ledger.authorized_steps == 40
    ledger.extend(longer)
    ledger.authorize(61)
    assert json.loads(path.read_text())["format"] == "dpdm_jax privacy ledger 5"
    assert read_ledger(path).epsilon_spent() == longer.epsilon_spent(61)


@pytest.mark.slow
@pytest.mark.parametrize("coordinates", [None, 5000])
@pytest.mark.parametrize("count", [2, 3])
def test_ledgers_written_before_queries_had_names_are_read(path, count, coordinates):
    plan = make_plan(
        dataclasses.replace(
            CONFIG, queries=(Query("moments", count, 5.0),), coordinates=coordinates
        )
    )
    written = Ledger.create(path, plan).record

    def downgrade(fields):
        fields["format"] = f"dpdm_jax privacy ledger {4 if coordinates else 3}"
        (query,) = fields["plan"].pop("queries")
        fields["plan"]["moments_noise_multiplier"] = query["noise_multiplier"]
        if count != 2:
            fields["plan"]["moments_queries"] = query["count"]

    rewrite(path, downgrade)
    assert read_ledger(path) == written
    rewrite(path, lambda fields: fields["plan"].update(queries=[]))
    with pytest.raises(InputError, match="has queries, which its format has not"):
        read_ledger(path)


@pytest.fixture(scope="module")
def moments_plan():
    return make_plan(dataclasses.replace(CONFIG, queries=(Query("moments", 2, 5.0),)))


def test_moments_are_counted_from_the_start(path, moments_plan):
    ledger = Ledger.create(path, moments_plan)
    spent = accounting.epsilon_of_events(
        [(PoissonSampling(1.0, 2), 5.0, 2)], moments_plan.delta
    )
    assert ledger.epsilon_spent() == spent > 0
    assert ledger.authorized_steps == 0
    ledger.authorize(60)
    record = read_ledger(path)
    assert record.epsilon_spent() == moments_plan.epsilon
    assert [(e.name, e.authorized_steps) for e in record.events] == [
        ("moments", 2),
        ("training", 60),
    ]
    assert Ledger.open(path, moments_plan).record == record


def test_a_third_query_is_counted_and_cannot_be_left_out(path, moments_plan):
    three = make_plan(dataclasses.replace(CONFIG, queries=(Query("moments", 3, 5.0),)))
    ledger = Ledger.create(path, three)
    assert ledger.epsilon_spent() == accounting.epsilon_of_events(
        [(PoissonSampling(1.0, 3), 5.0, 3)], three.delta
    )
    assert Ledger.open(path, three).record == ledger.record
    with pytest.raises(
        InputError, match=r"queries 'moments \(3 sums at 5\.0\)' -> 'moments \(2 sums"
    ):
        Ledger.open(path, moments_plan)
    rewrite(path, lambda fields: fields["plan"]["queries"][0].update(count=2))
    with pytest.raises(InputError, match="plan's queries"):
        read_ledger(path)


def test_moments_with_fixed_keys_are_not_private(path, moments_plan):
    assert Ledger.create(path, moments_plan, fixed_keys=True).epsilon_spent() == (
        math.inf
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f["events"].pop(0), "plan's queries"),
        (lambda f: f["events"].reverse(), "not the plan's"),
        (lambda f: f["events"][0].update(authorized_steps=1), "plan's queries"),
        (lambda f: f["events"][0].update(noise_multiplier=6.0), "plan's queries"),
        (lambda f: f["events"][0].update(sampling_probability=0.5), "plan's queries"),
        (lambda f: f["events"][0].update(name="counts"), "plan's queries"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 1"), "its format has not"),
        (lambda f: f.update(format="dpdm_jax privacy ledger 3"), "another kind"),
    ],
)
def test_moments_cannot_be_left_out(path, moments_plan, edit, message):
    Ledger.create(path, moments_plan)
    rewrite(path, edit)
    with pytest.raises(InputError, match=message):
        read_ledger(path)


def test_a_run_cannot_go_on_with_or_without_moments(path, plan, moments_plan):
    Ledger.create(path, moments_plan)
    with pytest.raises(
        InputError, match=r"queries 'moments \(2 sums at 5\.0\)' -> 'none'"
    ):
        Ledger.open(path, plan)


@pytest.mark.slow
def test_moments_stay_before_an_extension(path, moments_plan):
    ledger = Ledger.create(path, moments_plan)
    ledger.extend(extend_plan(moments_plan, num_steps=30, epsilon=12))
    ledger.authorize(90)
    assert [e.name for e in ledger.record.events] == [
        "moments",
        "training",
        "extension 1",
    ]
    assert read_ledger(path).epsilon_spent() == ledger.plan.epsilon
