"""A run goes on after its budget by an explicit plan: the total composes, noise is new.

Keys are secret, so that runs are compared by copies of one run directory.
"""

import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax import devices, run_dir, settings
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import extend_plan, format_epsilon, new_noise_key, read_ledger
from dpdm_jax.training import steps
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.extension import extend
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.loop import train
from dpdm_jax.training.secrets import Secrets

_PLANNED, _ADDED = 6, 5
_STEPS = _PLANNED + _ADDED


def config_of(**overrides):
    """The digits config, cut down to seconds; ``a__b`` stands for ``config.a.b``."""
    config = digits.network_alone()
    small = {
        "network__mlp__base_width": 4,
        "network__mlp__hidden_width": 8,
        "diffusion__noise_multiplicity": 2,
        "privacy__accountant": "rdp",
        "train__batch_size": 100,
        "train__num_steps": _PLANNED,
        "train__microbatch_size": 64,
        "checkpoint__every_steps": 2,
        "checkpoint__keep": 10,
        "log__every_steps": 1,
        "log__snapshot_every_steps": 0,
        "log__tensorboard": False,
    }
    for name, value in (small | overrides).items():
        settings.assign(config, name.replace("__", "."), value)
    return config


def extend_by(workdir, num_steps=_ADDED, epsilon=12.0, **fields):
    said = []
    asked = {"extend__num_steps": num_steps, "extend__epsilon": epsilon} | fields
    extend(config_of(**asked), workdir, said.append)
    return "\n".join(said)


def copy_of(folder, target) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(folder, target))


def ledger_of(workdir):
    return read_ledger(workdir / "privacy.json")


def arrays_of(workdir, step=-1):
    """Weights and average of a checkpoint, and the digests of all of its arrays."""
    checkpoints = Checkpoints(workdir)
    model = build_model(config_of(), (8, 8, 1), of_classes(10))
    arrays = [checkpoints.restore_weights(model, name, step) for name in ("raw", "ema")]
    digests = checkpoints.description(step)["digests"]
    checkpoints.close()
    return arrays, digests


kept_arrays_of = functools.cache(arrays_of)  # of a run that stays as it is


def assert_same_end(workdir, other):
    ours, theirs = arrays_of(workdir), kept_arrays_of(other)
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    assert ours[1] == theirs[1]  # the optimizer's state, too
    assert ledger_of(workdir) == ledger_of(other)


def logged(workdir, field):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[field] for line in lines]


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Stopped after 3 of 6 steps. Read-only, as are the others."""
    folder = tmp_path_factory.mktemp("partial") / "run"
    train(config_of(train__stop_after_steps=3), folder)
    return folder


@pytest.fixture(scope="module")
def spent(partial, tmp_path_factory):
    """That run at its end."""
    folder = copy_of(partial, tmp_path_factory.mktemp("spent") / "run")
    train(config_of(), folder)
    return folder


@pytest.fixture(scope="module")
def extended(spent, tmp_path_factory):
    """That run with 5 more steps planned, none of them taken."""
    folder = copy_of(spent, tmp_path_factory.mktemp("extended") / "run")
    extend_by(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(extended, tmp_path_factory):
    """That run at its new end."""
    folder = copy_of(extended, tmp_path_factory.mktemp("undisturbed") / "run")
    train(config_of(), folder)
    return folder


@pytest.mark.slow
def test_an_extension_only_plans(spent, extended):
    before, after = ledger_of(spent), ledger_of(extended)
    assert after.authorized_steps == before.authorized_steps == _PLANNED
    assert after.epsilon_spent() == before.epsilon_spent()
    assert after.plan.extends == before.plan
    assert before.plan.epsilon < after.plan.epsilon <= 12
    changed = {
        path.relative_to(spent)
        for path in spent.rglob("*")
        if path.is_file()
        and path.read_bytes() != (extended / path.relative_to(spent)).read_bytes()
    }
    assert changed == {pathlib.Path("privacy.json")}


@pytest.mark.slow
def test_it_is_announced_before_it_is_written(spent, tmp_path):
    workdir = copy_of(spent, tmp_path / "run")
    before = (workdir / "privacy.json").read_bytes()
    seen = []

    def announce(text):
        seen.append((text, (workdir / "privacy.json").read_bytes()))

    extend(config_of(extend__num_steps=5, extend__epsilon=12.0), workdir, announce)
    ((text, ledger),) = seen
    assert ledger == before != (workdir / "privacy.json").read_bytes()
    plan = ledger_of(workdir).plan
    for epsilon in (plan.extends.epsilon, plan.epsilon):
        assert f"epsilon = {format_epsilon(epsilon)}" in text


@pytest.mark.slow
def test_training_goes_on_to_the_new_end_and_no_further(spent, undisturbed):
    record = ledger_of(undisturbed)
    assert record.authorized_steps == _STEPS
    assert record.epsilon_spent() == record.plan.epsilon <= 12
    assert logged(undisturbed, "step") == list(range(1, _STEPS + 1))
    epsilons = logged(undisturbed, "epsilon")
    assert epsilons == sorted(epsilons)
    assert epsilons[_PLANNED - 1] == ledger_of(spent).epsilon_spent()
    assert epsilons[-1] == record.epsilon_spent()
    with pytest.raises(InputError, match=r"budget .* is spent.*--mode=extend"):
        train(config_of(), undisturbed)


@pytest.mark.slow
def test_killed_in_its_first_step_and_later_it_ends_bit_for_bit(
    extended, undisturbed, tmp_path, monkeypatch
):
    workdir = copy_of(extended, tmp_path / "run")
    take_step = steps.take_step
    # No step of the extension is taken; then, after a checkpoint, one that is repeated.
    for killed_in in (_PLANNED, _PLANNED + 3):

        def until_killed(phase, state, step, stop, last=killed_in):
            if step == last:
                raise ConnectionResetError  # which nothing handles
            return take_step(phase, state, step, stop)

        with monkeypatch.context() as patch:
            patch.setattr(steps, "take_step", until_killed)
            with pytest.raises(ConnectionResetError):
                train(config_of(), workdir)
        assert ledger_of(workdir).authorized_steps > killed_in
    train(config_of(), workdir)
    assert_same_end(workdir, undisturbed)
    # A step that was taken twice had one batch.
    taken, sizes = (logged(workdir, n) for n in ("step", "private/batch_size"))
    expected = dict(
        zip(
            logged(undisturbed, "step"),
            logged(undisturbed, "private/batch_size"),
            strict=True,
        )
    )
    assert taken.count(_PLANNED + 3) == 2
    assert sizes == [expected[step] for step in taken]


@pytest.mark.slow
def test_without_the_checkpoint_between_the_plans_each_has_its_own_noise(
    extended, undisturbed, tmp_path
):
    workdir = copy_of(extended, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / str(_PLANNED))
    train(config_of(), workdir)
    assert_same_end(workdir, undisturbed)


@pytest.mark.slow
def test_an_unfinished_run_takes_what_was_planned_first(partial, spent, tmp_path):
    workdir = copy_of(partial, tmp_path / "run")
    extend_by(workdir, num_steps=1)
    train(config_of(), workdir)
    assert ledger_of(workdir).authorized_steps == _PLANNED + 1
    ours, theirs = arrays_of(workdir, _PLANNED), kept_arrays_of(spent, _PLANNED)
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    assert arrays_of(workdir)[1] != ours[1]


@pytest.mark.slow
def test_copies_that_are_extended_apart_share_neither_noise_nor_batches(
    spent, undisturbed, tmp_path
):
    workdir = copy_of(spent, tmp_path / "run")
    extend_by(workdir)
    train(config_of(), workdir)
    assert ledger_of(workdir).plan == ledger_of(undisturbed).plan
    assert arrays_of(workdir, 8)[1] != kept_arrays_of(undisturbed, 8)[1]
    sizes = [
        logged(folder, "private/batch_size")[_PLANNED:]
        for folder in (workdir, undisturbed)
    ]
    # Binomial with a deviation of 9, five times: equal with probability 3e-8.
    assert sizes[0] != sizes[1]


@pytest.mark.slow
def test_extending_twice(undisturbed, tmp_path):
    workdir = copy_of(undisturbed, tmp_path / "run")
    with pytest.raises(InputError, match=r"epsilon is 12\.0; allowed: more than"):
        extend_by(workdir)
    extend_by(workdir, 2, 14.0, extend__noise_multiplier=3.0)
    train(config_of(), workdir)
    record = ledger_of(workdir)
    assert [event.authorized_steps for event in record.events] == [6, 5, 2]
    assert ledger_of(undisturbed).epsilon_spent() < record.epsilon_spent() <= 14
    assert record.epsilon_spent() == logged(workdir, "epsilon")[-1]


@pytest.mark.slow
def test_secrets_of_an_extension_are_in_no_file(undisturbed):
    path = undisturbed / "checkpoints" / str(_STEPS) / "private" / "metadata"
    secrets = Secrets.from_dict(json.loads(path.read_text()))
    derived = secrets.of_extension(ledger_of(undisturbed).events[1].extension_id)
    needles = [derived.noise_words.tobytes()]
    needles += [str(int(w)).encode() for w in derived.noise_words.ravel() if w > 10**6]
    for seed in (derived.selection_seed, derived.loss_seed):
        needles += [seed, seed.hex().encode()]
    for path in undisturbed.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path


@pytest.mark.slow
def test_a_larger_budget_on_resuming_stays_refused(extended, tmp_path):
    workdir = copy_of(extended, tmp_path / "run")
    before = (workdir / "privacy.json").read_bytes()
    for field, value in (("privacy__epsilon", 12.0), ("train__num_steps", _STEPS)):
        with pytest.raises(InputError, match="--mode=extend"):
            train(config_of(**{field: value}), workdir)
    assert (workdir / "privacy.json").read_bytes() == before


@pytest.mark.slow
def test_what_cannot_be_extended(spent, tmp_path):
    with pytest.raises(InputError, match="holds no run to extend"):
        extend_by(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"extend\.num_steps is 0"):
        extend_by(spent, num_steps=0)
    workdir = copy_of(spent, tmp_path / "run")
    with run_dir.locked(workdir), pytest.raises(InputError, match="in use"):
        extend_by(workdir)
    assert ledger_of(workdir) == ledger_of(spent)


@pytest.mark.slow
def test_the_learning_rate_stays_where_the_schedule_ended(spent):
    config = config_of(train__schedule="linear", train__optimizer="sgd")
    plan = ledger_of(spent).plan
    longer = extend_plan(plan, num_steps=1000, epsilon=12.0)
    training = build_training(
        config,
        longer,
        build_model(config, (8, 8, 1), of_classes(10)).trained_loss(),
        new_noise_key(),
        devices.data_mesh(),
    )
    weights = {"w": jnp.zeros(1)}
    state, rates = training.optimizer.init(weights), []
    for _ in range(_PLANNED + 3):
        update, state = training.optimizer.update({"w": jnp.ones(1)}, state, weights)
        rates.append(-float(update["w"][0]))
    rate = config.train.learning_rate
    assert rates[0] == pytest.approx(rate)
    assert rates[_PLANNED:] == pytest.approx([0.05 * rate] * 3)
