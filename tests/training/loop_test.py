"""A run as a whole: on real digits, with a tiny network."""

import json
import math
import pathlib
import shutil
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from earlier_configs import as_format_1
from reading import shape_of

from dpdm_jax import data, planning, rngs, settings
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import exact_sum, gaussian_noise, read_ledger
from dpdm_jax.training import steps
from dpdm_jax.training.checkpoints import Checkpoints, checksum
from dpdm_jax.training.loop import train
from dpdm_jax.training.secrets import fixed_secrets


def tiny_config(**overrides):
    """The digits config, cut down to seconds; ``a__b`` stands for ``config.a.b``."""
    config = digits.network_alone()
    small = {
        "network__mlp__base_width": 4,
        "network__mlp__hidden_width": 8,
        "network__mlp__num_blocks": 1,
        "diffusion__noise_multiplicity": 2,
        "privacy__accountant": "rdp",  # the quicker, as each step is logged
        "train__batch_size": 100,
        "train__num_steps": 6,
        "train__microbatch_size": 64,
        "checkpoint__every_steps": 2,
        "checkpoint__keep": 10,
        "log__every_steps": 1,
        "log__snapshot_every_steps": 0,
        "log__tensorboard": False,
    }
    with config.unlocked():
        for name, value in (small | overrides).items():
            settings.assign(config, name.replace("__", "."), value)
    return config


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory) -> pathlib.Path:
    """A run that was stopped after two steps. Read-only."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    train(tiny_config(train__stop_after_steps=2), workdir)
    return workdir


@pytest.fixture
def stopped(stopped_once, tmp_path) -> None:
    """Has a copy of it in ``tmp_path``."""
    shutil.copytree(stopped_once, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The end of a run whose keys are fixed, and its directory. Read-only."""
    workdir = tmp_path_factory.mktemp("known") / "run"
    return train(tiny_config(privacy__fixed_keys_seed=3), workdir), workdir


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two runs of one config: their ends and their directories. Read-only."""
    workdirs = [tmp_path_factory.mktemp("finished") / name for name in ("a", "b")]
    return [(train(tiny_config(), workdir), workdir) for workdir in workdirs]


def weights(workdir: pathlib.Path, config, step: int = -1):
    checkpoints = Checkpoints(workdir)
    model = build_model(config, *checkpoints.stored_problem())
    restored = [
        checkpoints.restore_weights(model, name, step)[0] for name in ("ema", "raw")
    ]
    checkpoints.close()
    return restored


def assert_trees_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def differ(one, other) -> bool:
    same = jax.tree.map(lambda a, b: bool((a == b).all()), one, other)
    return not all(jax.tree.leaves(same))


@pytest.mark.slow
def test_interrupted_run_ends_like_an_uninterrupted_one_bit_for_bit(known, tmp_path):
    fixed = {"privacy__fixed_keys_seed": 3}
    whole, _ = known
    # 3 is between checkpoints, so that resuming replays a step; 4 is at one.
    for stop in (3, 4, 0):
        parts = train(
            tiny_config(**fixed, train__stop_after_steps=stop), tmp_path / "parts"
        )
    assert int(parts.step) == int(whole.step) == 6
    for name in ("params", "ema_params", "opt_state"):
        assert_trees_equal(getattr(parts, name), getattr(whole, name))
    assert int(parts.noise_state.count) == int(whole.noise_state.count) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_a_run_killed_between_checkpoints_replays_batches_and_noise(tmp_path):
    """With secret keys: the end must not depend on where the run was cut."""
    twice = []
    for _ in range(2):
        # Both resume from step 2, as after two crashes; the later checkpoints of the
        # first are removed.
        state = train(tiny_config(train__stop_after_steps=4), tmp_path)
        twice.append(jax.device_get(state.params))
        for step in ("4",):
            _remove(tmp_path / "checkpoints" / step)
    assert_trees_equal(*twice)


def _remove(folder: pathlib.Path):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.mark.slow
def test_noise_and_batches_differ_between_runs_of_one_config(finished):
    assert differ(*(state.params for state, _ in finished))
    sizes = [
        [json.loads(line)["private/batch_size"] for line in lines]
        for lines in (
            (workdir / "metrics.jsonl").read_text().splitlines()
            for _, workdir in finished
        )
    ]
    assert sizes[0] != sizes[1]


# One step on every example, without noise and clipping.
_ORDINARY = {
    "privacy__epsilon": math.inf,
    "train__batch_size": 1437,
    "train__num_steps": 1,
    "train__optimizer": "sgd",
    "train__learning_rate": 0.5,
}


@pytest.mark.slow
def test_draws_of_the_loss_are_secret(tmp_path):
    """Known draws would tie an example's draws to its place among the others."""
    finals = []
    for name in ("a", "b"):
        config = tiny_config(**_ORDINARY)  # the batches are the same
        with pytest.warns(UserWarning, match="NOT PRIVATE"):
            finals.append(train(config, tmp_path / name).params)
    assert differ(*finals)


@pytest.mark.slow
def test_without_noise_and_clipping_a_step_is_ordinary_training(tmp_path):
    config = tiny_config(**_ORDINARY, privacy__fixed_keys_seed=7)
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        state = train(config, tmp_path)

    source = data.load_source(config.data, "train")
    model = build_model(config, shape_of(source), source.condition)
    loss = model.loss()
    batch = data.load_batch(source, np.arange(len(source)))
    key = fixed_secrets(7).loss_key(0)

    def mean_loss(params):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(source)))
        losses = jax.vmap(loss, (None, 0, 0))(params, batch.examples, keys)
        return losses.mean()

    params = model.init(rngs.stream(config.seed, "init"))
    expected = optax.apply_updates(
        params, jax.tree.map(lambda g: -0.5 * g, jax.jit(jax.grad(mean_loss))(params))
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
        state.params,
        expected,
    )


@pytest.mark.slow
def test_with_one_draw_a_step_is_that_of_dp_sgd(tmp_path):
    """Abadi et al. 2016, algorithm 1: clip each, add up, add noise, divide, descend."""
    bound, noise_multiplier, number = 0.9, 2.0, 1437
    config = tiny_config(
        **_ORDINARY
        | {
            "privacy__noise_multiplier": noise_multiplier,
            "privacy__l2_clip_norm": bound,
            "privacy__fixed_keys_seed": 7,
            "diffusion__noise_multiplicity": 1,
        }
    )
    state = train(config, tmp_path)

    source = data.load_source(config.data, "train")
    model = build_model(config, shape_of(source), source.condition)
    batch, loss = data.load_batch(source, np.arange(number)), model.loss()
    params = model.init(rngs.stream(config.seed, "init"))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        fixed_secrets(7).loss_key(0), np.arange(number)
    )

    @jax.jit
    def clipped_sum(params):
        def one(example, key):
            grad = jax.grad(loss)(params, example, key)
            norm = optax.global_norm(grad)
            scale = jnp.minimum(1.0, bound / norm)
            return jax.tree.map(lambda g: scale * g, grad), norm

        grads, norms = jax.lax.map(
            lambda x: one(*x), (batch.examples, keys), batch_size=100
        )
        return jax.tree.map(lambda g: g.sum(axis=0), grads), norms

    summed, norms = clipped_sum(params)
    assert norms.min() < bound < norms.max()
    noise = gaussian_noise(noise_multiplier * bound, fixed_secrets(7).noise_key)
    nothing = exact_sum(
        jax.tree.map(lambda x: jnp.zeros((1, *x.shape)), params), l2_clip_norm=bound
    )
    drawn, _ = noise.update(nothing, noise.init(None))
    for got, before, total, added in zip(
        *map(jax.tree.leaves, (state.params, params, summed, drawn)), strict=True
    ):
        expected = before - 0.5 * (total + added) / number
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
    size = sum(x.size for x in jax.tree.leaves(drawn))
    expected = noise_multiplier * bound * np.sqrt(size)
    assert optax.global_norm(drawn) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
def test_microbatches_and_engine_do_not_change_the_result(tmp_path):
    finals = []
    for i, (size, engine, held) in enumerate(
        [
            (160, "vmap", 0),
            (160, "auto", 0),
            (32, "scan", 8),
            (48, "auto", 5),
            (64, "book_keeping", 0),
        ]
    ):
        config = tiny_config(
            privacy__fixed_keys_seed=1,
            train__num_steps=2,
            train__microbatch_size=size,
            train__engine=engine,
            train__engine_microbatch_size=held,
        )
        finals.append(train(config, tmp_path / str(i)).params)
    for other in finals[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            finals[0],
            other,
        )


@pytest.mark.slow
def test_bfloat16_trains_nearly_like_float32(known, tmp_path):
    config = tiny_config(network__dtype="bfloat16", privacy__fixed_keys_seed=3)
    train(config, tmp_path)
    trained = [weights(known[1], tiny_config()), weights(tmp_path, config)]
    start = jax.tree.leaves(
        build_model(tiny_config(), (8, 8, 1), of_classes(10)).init(
            rngs.stream(tiny_config().seed, "init")
        )
    )
    for exact, rounded in zip(*trained, strict=True):  # average, weights
        leaves = [jax.tree.leaves(tree) for tree in (exact, rounded)]
        assert {leaf.dtype for leaf in leaves[1]} == {np.dtype("float32")}
        moved, apart = (
            np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(x, y, strict=True)))
            for x, y in ((leaves[0], start), leaves)
        )
        assert 0 < apart < 0.2 * moved
    metrics = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(m)["private/loss"]) for m in metrics)


@pytest.mark.slow
def test_one_compilation_whatever_the_batch(tmp_path, monkeypatch):
    compiled, per_step = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: (
            compiled.append(name) if name.endswith("backend_compile_duration") else None
        )
    )
    take_step = steps.take_step

    def counting(*args):
        result = take_step(*args)
        per_step.append(len(compiled))
        return result

    monkeypatch.setattr(steps, "take_step", counting)
    train(
        tiny_config(train__microbatch_size=16, privacy__fixed_keys_seed=2),
        tmp_path,
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    sizes = {json.loads(line)["private/batch_size"] for line in lines}
    assert len({-(-size // 16) for size in sizes}) > 1  # micro-batches did vary
    assert per_step[0] > 0  # the listener works
    assert per_step[-1] == per_step[1]


@pytest.mark.slow
def test_ledger_counts_before_work_and_the_budget_is_a_hard_stop(tmp_path):
    config = tiny_config()
    train(tiny_config(train__stop_after_steps=3), tmp_path)
    record = read_ledger(tmp_path / "privacy.json")
    assert record.authorized_steps == 3
    train(config, tmp_path)
    record = read_ledger(tmp_path / "privacy.json")
    assert record.authorized_steps == 6
    assert record.epsilon_spent() <= config.privacy.epsilon
    before = (tmp_path / "privacy.json").read_bytes()
    with pytest.raises(InputError, match=r"budget .* is spent"):
        train(config, tmp_path)
    assert (tmp_path / "privacy.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_resuming_under_another_mechanism_is_refused(tmp_path):
    for field, value, named in (
        ("privacy__epsilon", 3.0, "noise_multiplier"),
        ("privacy__l2_clip_norm", 0.5, "l2_clip_norm"),
        ("privacy__delta", 1e-5, "delta"),
        ("train__batch_size", 200, "sampling_probability"),
        ("train__num_steps", 8, "num_steps"),
    ):
        with pytest.raises(InputError, match=named):
            train(tiny_config(**{field: value}), tmp_path)
    # Nothing was lost: the run goes on.
    assert int(train(tiny_config(), tmp_path).step) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_other_gradients_under_the_same_noise_are_refused(tmp_path):
    for field, value in (
        ("train__learning_rate", 1.0),
        ("diffusion__noise_multiplicity", 3),
        ("diffusion__stratified", False),
        ("data__resize", "box"),
    ):
        with pytest.raises(InputError, match=field.replace("__", r"\.")):
            train(tiny_config(**{field: value}), tmp_path)
    config = tiny_config()
    config.seed = 1
    with pytest.raises(InputError, match="seed 0 -> 1"):
        train(config, tmp_path)
    free = tiny_config(train__microbatch_size=32, log__every_steps=2)
    assert int(train(free, tmp_path).step) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_a_run_whose_config_is_of_the_first_format_goes_on(tmp_path):
    for path in (tmp_path / "checkpoints").glob("*/meta/metadata"):
        meta = json.loads(path.read_text())
        assert meta["config"]["format"] == 2
        meta["config"] = as_format_1(tiny_config(train__stop_after_steps=2))
        del meta["checksum"]
        path.write_text(json.dumps(meta | {"checksum": checksum(meta)}))
    with pytest.raises(InputError, match=r"network\.mlp\.condition_gain 1\.0 -> 2\.0"):
        train(tiny_config(network__mlp__condition_gain=2.0), tmp_path)
    assert int(train(tiny_config(), tmp_path).step) == 6
    assert json.loads((tmp_path / "config.json").read_text())["format"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_resuming_with_another_network_is_refused(tmp_path):
    # The plan counts the numbers that noise goes onto.
    with pytest.raises(InputError, match=r"coordinates \(the network's size\) \d+ ->"):
        train(tiny_config(network__mlp__hidden_width=12), tmp_path)


@pytest.mark.slow
def test_lost_ledger_and_foreign_checkpoints_are_refused(
    stopped_once, finished, tmp_path
):
    shutil.copytree(stopped_once, tmp_path / "a")
    ledger = tmp_path / "a" / "privacy.json"
    kept = ledger.read_bytes()
    ledger.write_bytes((finished[0][1] / "privacy.json").read_bytes())
    with pytest.raises(InputError, match="one run in a directory"):
        train(tiny_config(), tmp_path / "a")
    ledger.unlink()
    with pytest.raises(InputError, match=r"no privacy\.json"):
        train(tiny_config(), tmp_path / "a")
    ledger.write_bytes(kept)
    assert int(train(tiny_config(), tmp_path / "a").step) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_a_second_process_is_refused(tmp_path):
    code = (
        "import pathlib, sys, time; from dpdm_jax import run_dir\n"
        "with run_dir.locked(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(InputError, match="in use by another process"):
        train(tiny_config(), tmp_path)
    other.kill()
    other.wait()
    assert int(train(tiny_config(), tmp_path).step) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_lost_checkpoints_are_refused(tmp_path):
    _remove(tmp_path / "checkpoints")
    with pytest.raises(InputError, match="no checkpoint is left"):
        train(tiny_config(), tmp_path)


def test_bad_fields_leave_no_run_behind(tmp_path):
    for field, value in (
        ("train__microbatch_size", 0),
        ("checkpoint__keep", 0),
        ("privacy__epsilon", -1.0),
        ("diffusion__noise_multiplicity", 0),
        ("train__learning_rate", 0.0),
        ("train__engine", "magic"),
        ("data__num_examples", 17),
    ):
        with pytest.raises(InputError):
            train(tiny_config(**{field: value}), tmp_path / "run")
        assert not (tmp_path / "run").exists(), field


@pytest.mark.slow
def test_secrets_are_private_and_absent_from_all_other_files(finished):
    (_, workdir), _ = finished
    folder = workdir / "checkpoints"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("metrics.jsonl", "config.json"):
        assert stat.S_IMODE((workdir / name).stat().st_mode) == 0o600
    private = json.loads((folder / "6" / "private" / "metadata").read_text())
    words = np.array(private["noise_key"], np.uint32)
    assert words.size * 32 >= 128
    needles = [words.tobytes()]
    for name in ("selection_seed", "loss_seed"):
        needles += [private[name].encode(), bytes.fromhex(private[name])]
    needles += [str(int(w)).encode() for w in words.ravel() if w > 10**6]
    for path in workdir.rglob("*"):
        if path.is_file() and path.parent.name != "private":
            content = path.read_bytes()
            assert not any(needle in content for needle in needles), path


@pytest.mark.slow
def test_fixed_keys_are_said_to_be_not_private(tmp_path):
    config = tiny_config(privacy__fixed_keys_seed=0, train__stop_after_steps=1)
    train(config, tmp_path)
    record = read_ledger(tmp_path / "privacy.json")
    assert record.not_private
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["epsilon"] == "inf"
    assert planning.plan_report(config)["not_private"] in record.not_private


@pytest.mark.slow
def test_metrics_mark_what_is_private(finished):
    (_, workdir), _ = finished
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        public = {n for n in json.loads(line) if not n.startswith("private/")}
        assert public == {"step", "epsilon"}


@pytest.mark.slow
def test_logged_epsilon_is_the_ledgers(finished):
    (_, workdir), _ = finished
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line)["epsilon"] for line in lines]
    assert logged == sorted(logged)
    assert logged[-1] == read_ledger(workdir / "privacy.json").epsilon_spent()


@pytest.mark.slow
def test_empty_batches_are_steps_of_pure_noise(tmp_path):
    config = tiny_config(
        train__batch_size=1,
        train__num_steps=6,
        train__b1=0.0,
        privacy__fixed_keys_seed=2,
    )
    train(config, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    sizes = [json.loads(line)["private/batch_size"] for line in lines]
    assert 0 in sizes  # each is empty with probability 1/e; some are with these keys
    ema, raw = weights(tmp_path, config)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((ema, raw)))


@pytest.mark.slow
def test_plan_report_agrees_with_the_run(finished):
    config = tiny_config()
    report = planning.plan_report(config)
    (_, workdir), _ = finished
    plan = read_ledger(workdir / "privacy.json").plan
    assert report["noise_multiplier"] == plan.noise_multiplier
    assert report["epsilon"] == plan.epsilon <= config.privacy.epsilon
    ema, _ = weights(workdir, config)
    assert report["num_parameters"] == sum(x.size for x in jax.tree.leaves(ema))
