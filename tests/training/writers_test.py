"""Who follows a run is told what is public, and the rest where the user says so."""

import json
import logging
import sys
import types

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.training.loop import train
from dpdm_jax.training.writers import registry
from dpdm_jax.training.writers.base import About

#: What fake writers were told, by the name of the run's place.
TOLD: dict[str, list] = {}


class Here:
    """A writer of a user's own."""

    place = "here"

    def __init__(self, about):
        TOLD[self.place] = [about]

    def write(self, step, scalars):
        TOLD[self.place].append((step, scalars))

    def close(self):
        TOLD[self.place].append("closed")


class Office(Here):
    place = "office"


class Broken(Here):
    place = "broken"

    def write(self, step, scalars):
        super().write(step, scalars)
        raise ConnectionError("no route to host")


class Unreachable(Here):
    def __init__(self, about):
        raise ConnectionError("no route to host")


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    """The classes above, as a module that Python finds."""
    module = types.ModuleType("my_writers")
    for writer in (Here, Office, Broken, Unreachable):
        setattr(module, writer.__name__, writer)
    monkeypatch.setitem(sys.modules, "my_writers", module)
    TOLD.clear()


@pytest.fixture
def settings(tiny_config):
    def make(writers="", private=""):
        return tiny_config(log__writers=writers, log__private_writers=private).log

    return make


def about(tmp_path):
    return About("digits", "abc", "dpdm_jax", {"delta": 1e-4}, tmp_path)


@pytest.mark.slow
def test_private_values_go_where_the_user_says(tiny_config, tmp_path, caplog):
    names = "my_writers:Here, my_writers:Office, my_writers:Broken"
    config = tiny_config(
        log__writers=names,
        log__private_writers="my_writers:Office",
        log__every_steps=2,
        log__project="scans",
        train__stop_after_steps=4,
    )
    with caplog.at_level(logging.WARNING):
        train(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    assert [line.pop("step") for line in logged] == [2, 4]
    (first, *told, last), (_, *all_told, _) = TOLD["here"], TOLD["office"]
    assert told == [
        (n, {"epsilon": line["epsilon"]})
        for n, line in zip((2, 4), logged, strict=True)
    ]
    assert all_told == list(zip((2, 4), logged, strict=True))
    assert {"private/loss", "private/batch_size"} <= all_told[0][1].keys()
    assert last == "closed"
    # What is said of the run at its beginning is in the ledger, which is published.
    ledger = json.loads((tmp_path / "privacy.json").read_text())
    assert (first.name, first.project) == (config.name, "scans")
    assert first.run_id == ledger["run_id"]
    assert first.facts == registry.flat(ledger["plan"])
    assert str(tmp_path) not in json.dumps(first.facts)
    # One that fails costs the run nothing, and is said to once.
    assert len(TOLD["broken"]) == 2
    (said,) = [m for m in caplog.messages if "Broken" in m]
    assert "(ConnectionError: no route to host) and is left out" in said


@pytest.mark.parametrize(
    ("writers", "private", "message"),
    [
        ("tensorflow", "", "allowed: wandb, mlflow, or MODULE:NAME"),
        ("my_writers:Nobody", "", "'my_writers:Nobody', which cannot be imported"),
        ("no_such_module:X", "", "cannot be imported"),
        ("my_writers:Here", "mlflow", "log.private_writers has 'mlflow'"),
    ],
)
def test_what_cannot_be_followed(
    settings, tiny_config, tmp_path, writers, private, message
):
    config = tiny_config(log__writers=writers, log__private_writers=private)
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_opened(settings, tmp_path):
    names = "my_writers:Here,my_writers:Unreachable"
    with pytest.raises(
        InputError, match=r"opened \(ConnectionError: no route to host\)"
    ):
        registry.Followers(settings(names), about(tmp_path))
    assert TOLD["here"][-1] == "closed"


@pytest.mark.parametrize("name", registry.WRITERS)
def test_a_missing_package_is_an_extra(settings, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=rf"pip install 'dpdm_jax\[{name}\]'"):
        registry.check(settings(name))


class FakeWandb(types.ModuleType):
    """What is called of the package, with what it is given."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []
        self.Settings = dict

    def init(self, **options):
        self.options = options
        return self

    def define_metric(self, name, step_metric):
        self.calls.append((name, step_metric))

    def log(self, values):
        self.calls.append(values)

    def finish(self):
        self.calls.append("finished")


def test_wandb(settings, tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    followers = registry.Followers(settings("wandb"), about(tmp_path))
    followers.write(3, {"epsilon": 0.5, "private/loss": 1.0})
    followers.close()
    assert fake.calls == [("*", "step"), {"step": 3, "epsilon": 0.5}, "finished"]
    assert fake.options["config"] == {"delta": 1e-4}
    assert (tmp_path / "wandb").stat().st_mode & 0o777 == 0o700
    assert (fake.options["project"], fake.options["id"]) == ("dpdm_jax", "abc")
    # The screen says what is private, and command lines name places.
    kept = fake.options["settings"]
    assert kept["console"] == "off"
    assert kept["x_disable_meta"]
    assert kept["x_disable_stats"]
    assert not kept["save_code"]


class FakeMlflow(types.ModuleType):
    """What is called of MLflow's client, with one experiment and its runs."""

    def __init__(self):
        super().__init__("mlflow")
        self.calls, self.experiments, self.runs = [], {}, {}
        entities = types.ModuleType("mlflow.entities")
        entities.Metric = lambda name, value, _, step: (name, value, step)
        self.entities = entities

    def MlflowClient(self):
        return self

    def get_experiment_by_name(self, name):
        number = self.experiments.get(name)
        return number and types.SimpleNamespace(experiment_id=number)

    def create_experiment(self, name):
        self.experiments[name] = "7"
        return "7"

    def search_runs(self, experiments, wanted):
        assert experiments == ["7"]
        found = [n for n, tag in self.runs.items() if f"'{tag}'" in wanted]
        return [
            types.SimpleNamespace(info=types.SimpleNamespace(run_id=n)) for n in found
        ]

    def create_run(self, number, *, run_name, tags):
        self.runs[run_name] = tags["dpdm_jax.run_id"]
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_name))

    def log_param(self, run, name, value):
        self.calls.append((run, name, value))

    def log_batch(self, run, metrics):
        self.calls.append((run, metrics))

    def set_terminated(self, run):
        self.calls.append((run, "ended"))


def test_mlflow(settings, tmp_path, monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", fake.entities)
    for private in ("", "mlflow"):  # a resumed run goes on with its own
        followers = registry.Followers(settings("mlflow", private), about(tmp_path))
        followers.write(3, {"epsilon": 0.5, "private/loss": 1.0})
        followers.close()
    public, loss = ("epsilon", 0.5, 3), ("private/loss", 1.0, 3)
    assert fake.calls == [
        ("digits", "delta", 1e-4),
        ("digits", [public]),
        ("digits", "ended"),
        ("digits", [public, loss]),
        ("digits", "ended"),
    ]
