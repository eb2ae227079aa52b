import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.release.build import release
from dpdm_jax.release.bundle import read_manifest
from dpdm_jax.release.model import load_release
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling.run import sample
from dpdm_jax.training import ema
from dpdm_jax.training import power_averages as power
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train

STEPS = 60


def profile(step, length, steps=STEPS):
    """What an average gives to each step, as the formula has it."""
    g, i = power.exponent_of(length), np.arange(1, steps + 1.0)
    shares = np.minimum(i / step, 1) ** (g + 1) - np.minimum((i - 1) / step, 1) ** (
        g + 1
    )
    np.testing.assert_allclose(shares.sum(), 1)
    return shares


@pytest.mark.parametrize(
    ("length", "exponent"), [(0.05, 16.97), (0.10, 6.94), (0.25, 0.72)]
)
def test_exponents_are_the_papers(length, exponent):
    """Section 3.1: 0.05 and 0.10 are 16.97 and 6.94."""
    g = power.exponent_of(length)
    assert g == pytest.approx(exponent, abs=0.005)
    assert length == pytest.approx((g + 1) ** 0.5 / (g + 2) / (g + 3) ** 0.5)


@pytest.mark.parametrize("length", [0.01, 0.05, 0.25])
def test_updates_make_the_average_of_the_formula(length):
    weights = np.random.default_rng(0).normal(size=STEPS).astype(np.float32)
    (decay,) = [
        d for name, d in power.decays(0.9, [length]).items() if name != ema.NAME
    ]
    average = {"w": jnp.float32(7.0)}  # is forgotten
    for n, each in enumerate(weights, 1):
        average = ema.update_average(average, {"w": each}, decay(jnp.int32(n)))
    expected = profile(STEPS, length) @ weights
    np.testing.assert_allclose(average["w"], expected, rtol=2e-5, atol=2e-6)


def test_what_was_kept_is_rebuilt_as_it_is():
    snapshots = [power.Snapshot(t, x) for t in (20, 40, 60) for x in (0.05, 0.1)]
    for number, each in enumerate(snapshots):
        shares, error = power.coefficients(snapshots, each)
        np.testing.assert_array_equal(shares, np.eye(6)[number])
        assert error == 0
        # As one that is nearly that would be.
        near = each._replace(length=each.length * (1 + 1e-9))
        shares, error = power.coefficients(snapshots, near)
        np.testing.assert_allclose(shares, np.eye(6)[number], atol=1e-6)
        assert error < 1e-6


@pytest.mark.parametrize(
    ("length", "bound"), [(0.03, 0.02), (0.07, 0.002), (0.2, 0.01)]
)
def test_others_are_near_and_the_error_is_that_which_is_said(length, bound):
    steps = 400
    snapshots = [
        power.Snapshot(t, x) for t in range(10, steps + 1, 10) for x in (0.05, 0.1)
    ]
    wanted = power.Snapshot(steps, length)
    shares, error = power.coefficients(snapshots, wanted)
    assert shares.sum() == pytest.approx(1)
    rebuilt = sum(
        share * profile(*each, steps)
        for share, each in zip(shares, snapshots, strict=True)
    )
    exact = profile(*wanted, steps)
    relative = np.linalg.norm(rebuilt - exact) / np.linalg.norm(exact)
    assert error < bound
    assert relative == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(
    "lengths", [(0.05,), (0.1, 0.1), (0.005, 0.1), (0.05, 0.3), (0.05, "long")]
)
def test_lengths_out_of_range(lengths):
    with pytest.raises(InputError, match=r"^train.power_averages is .* allowed: "):
        power.check_lengths("train.power_averages", lengths)


def test_what_a_release_says():
    assert power.weights_name("ema", 0.0) == "ema"
    assert power.weights_name("ema", 0.05) == "average=0.05"
    for said in ("ema", "average=0.05", "average=0.25"):
        power.check_weights_name("weights", said)
    for said in ("raw", "average=0.3", "average=1e-2", "average=nan", None):
        with pytest.raises(InputError, match=r"^weights is .*; allowed: "):
            power.check_weights_name("weights", said)


# Of a run that is the same each time, as its keys are fixed.
RUN = {
    "privacy__fixed_keys_seed": 3,
    "train__num_steps": 12,
    "checkpoint__every_steps": 6,
    "checkpoint__average_every_steps": 2,
}
LENGTHS = (0.05, 0.1)


@pytest.fixture(scope="module")
def runs(tiny_config, tmp_path_factory):
    """Runs of one mechanism: without, with these averages, with others. Read-only."""
    found = {}
    for name, lengths in (("none", ()), ("kept", LENGTHS), ("others", (0.07, 0.2))):
        workdir = tmp_path_factory.mktemp(name) / "run"
        config = tiny_config(**RUN, train__power_averages=lengths)
        found[name] = workdir, config, train(config, workdir)
    return found


def rebuilt(run, length, step=-1, weights="ema"):
    workdir, config, _ = run
    checkpoints = Checkpoints(workdir)
    try:
        model = build_model(config, *checkpoints.stored_problem())
        return checkpoints.restore_weights(model, weights, step, length)[0]
    finally:
        checkpoints.close()


def largest_difference(one, other):
    found = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), one, other)
    return max(jax.tree.leaves(found))


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_noised_sums_are_the_same_bits_with_and_without(runs):
    """Averages are post-processing: the mechanism does not know that they are there."""
    none, *others = [state for *_, state in runs.values()]
    for state in others:
        # Adam keeps sums of the noised gradients and of their squares.
        for name in ("params", "ema_params", "opt_state"):
            assert_same_bits(getattr(none, name), getattr(state, name))
    assert none.power_averages == {}
    ledgers = [read_ledger(workdir / "privacy.json") for workdir, *_ in runs.values()]
    assert len({ledger.plan.to_dict()["epsilon"] for ledger in ledgers}) == 1


@pytest.mark.slow
def test_rebuilt_averages_are_those_that_were_kept(runs):
    _, _, state = runs["others"]
    for length in (0.07, 0.2):
        expected = state.averages[power.name_of(length)]
        made = rebuilt(runs["kept"], length)
        others = [rebuilt(runs["kept"], each) for each in (0.05, 0.1)]
        difference = largest_difference(made, expected)
        assert difference < 0.1 * min(largest_difference(made, x) for x in others)
    for length in LENGTHS:  # and those that were kept are themselves
        expected = runs["kept"][2].averages[power.name_of(length)]
        assert_same_bits(rebuilt(runs["kept"], length), expected)


@pytest.mark.slow
def test_an_average_of_an_earlier_step(runs):
    made = [rebuilt(runs["kept"], 0.07, step) for step in (6, 12)]
    expected = rebuilt(runs["others"], 0.07, 6)
    assert largest_difference(made[0], expected) < 1e-3
    assert largest_difference(*made) > 1e-2


@pytest.mark.slow
def test_a_run_in_parts_keeps_the_same_bits(runs, tiny_config, tmp_path):
    workdir, _, whole = runs["kept"]
    for stop in (5, 0):  # between snapshots and checkpoints
        config = tiny_config(
            **RUN, train__power_averages=LENGTHS, train__stop_after_steps=stop
        )
        parts = train(config, tmp_path)
    assert_same_bits(parts.power_averages, whole.power_averages)
    kept = [
        sorted(p.relative_to(folder) for p in folder.glob("checkpoints/averages/*/*"))
        for folder in (workdir, tmp_path)
    ]
    assert kept[0] == kept[1]
    assert [int(p.parts[2]) for p in kept[0]] == [10, 12, 2, 4, 6, 8]


@pytest.mark.slow
def test_what_is_frozen_is_as_it_was_bit_for_bit(tiny_config, tmp_path):
    config = tiny_config(
        train__trainable="*bias",
        train__num_steps=4,
        train__power_averages=LENGTHS,
    )
    state = train(config, tmp_path)
    run = tmp_path, config, state
    made = named_leaves(rebuilt(run, 0.07))
    first = named_leaves(rebuilt(run, 0.0, 0, "raw"))
    moved = {name for name in made if (made[name] != first[name]).any()}
    assert moved
    assert all(name.endswith("bias") for name in moved)
    assert {name for name in made if not name.endswith("bias")}


@pytest.mark.slow
def test_a_damaged_copy_is_refused(runs, tmp_path):
    workdir, config, state = runs["kept"]
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    (folder,) = copy.glob("checkpoints/averages/8/*")
    for path in folder.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"averages of step 8 .* allowed: "):
        rebuilt((copy, config, state), 0.07)
    assert largest_difference(  # of the steps before it
        rebuilt((copy, config, state), 0.07, 6), rebuilt(runs["kept"], 0.07, 6)
    ) == pytest.approx(0.0)


@pytest.mark.slow
def test_a_run_without_averages_says_so(runs):
    with pytest.raises(InputError, match=r"holds none .* allowed: 0, or a run"):
        rebuilt(runs["none"], 0.05)


@pytest.mark.slow
def test_samples_say_which_average_they_are_of(runs):
    workdir, config, _ = runs["kept"]
    config = config.copy_and_resolve_references()
    config.sample.update(num_images=10, batch_size=10, average=0.07, name="seven")
    made = json.loads((sample(config, workdir) / "settings.json").read_text())
    assert made["weights"] == "average=0.07"
    config.sample.average = 0.3
    with pytest.raises(InputError, match=r"sample.average is 0.3; allowed: "):
        sample(config, workdir)
    config.sample.update(average=0.07, weights="raw")
    with pytest.raises(InputError, match="in whose place it is"):
        sample(config, workdir)


@pytest.mark.slow
def test_a_release_says_which_average_it_holds(runs):
    workdir, config, _ = runs["kept"]
    config = config.copy_and_resolve_references()
    config.sample.average = 0.05
    config.release.update(average=0.07, allow_not_private=True)
    folder = release(config, workdir)
    assert read_manifest(folder)["weights"] == "average=0.07"
    assert not verify(folder).failures
    # It has no other to sample from.
    assert json.loads((folder / "config.json").read_text())["sample"]["average"] == 0
    expected = rebuilt(runs["kept"], 0.07)
    assert_same_bits(load_release(folder).params, expected)
