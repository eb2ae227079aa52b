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
from dpdm_jax.privacy.plan import PrivacyConfig, make_plan

CONFIG = PrivacyConfig(
    num_examples=1500, batch_size=256, epsilon=10, delta=1e-4, epochs=10
)


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


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: f["events"].clear(), "malformed"),
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
    fields = json.loads(path.read_text())
    edit(fields)
    del fields["checksum"]
    fields["checksum"] = ledger_lib._checksum(fields)
    path.write_text(json.dumps(fields))
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


def test_killed_at_any_moment_the_ledger_is_whole_and_never_undercounts(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", KILL_LOOP, str(tmp_path), "40"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.startswith("survived"), run.stderr
    assert int(run.stdout.split()[1]) >= 40
