"""A real process that is killed or stopped ends where an undisturbed one does."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from dpdm_jax import rooms, settings
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train

pytestmark = pytest.mark.slow

_STEPS = 30
_FIELDS = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "diffusion.parameterization": "edm",
    "diffusion.noise_multiplicity": 2,
    "privacy.moments_share": 0.0,
    "privacy.fixed_keys_seed": 1,
    "privacy.accountant": "rdp",  # the quicker, as each step is logged
    "train.batch_size": 100,
    "train.num_steps": _STEPS,
    "train.microbatch_size": 64,
    "checkpoint.every_steps": 3,
    "log.every_steps": 1,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
}


@pytest.fixture
def start(commands):
    """Starts the run in a directory."""
    flags = [f"--config.{name}={value}" for name, value in _FIELDS.items()]
    return lambda workdir: commands.start(
        "--mode=train", f"--workdir={workdir}", *flags
    )


def wait_for_checkpoint(process, workdir, step):
    """Waits until a checkpoint of the step is there, or begun, or the process ends."""
    while process.poll() is None:
        names = [p.name.split(".")[0] for p in (workdir / "checkpoints").glob("*")]
        if any(name.isdecimal() and int(name) >= step for name in names):
            return
        time.sleep(0.005)


def weights(workdir):
    config = digits.network_alone()
    config.network.mlp.base_width, config.network.mlp.hidden_width = 4, 8
    model = build_model(config, (8, 8, 1), of_classes(10))
    checkpoints = Checkpoints(workdir)
    params, step = checkpoints.restore_weights(model, "ema")
    checkpoints.close()
    assert step == _STEPS
    return params


def newest_of(workdir):
    checkpoints = Checkpoints(workdir)
    newest = max(checkpoints.steps(), default=0)
    checkpoints.close()
    return newest


def kill(process, workdir):
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (workdir / "privacy.json").exists():
        record = read_ledger(workdir / "privacy.json")
        assert record.authorized_steps >= newest_of(workdir)


def ask_to_stop(process, workdir, number):
    """It saves and exits with one line."""
    process.send_signal(number)
    ended = process.wait()
    assert ended.returncode == 128 + number
    assert "Traceback" not in ended.stderr
    assert "the same command goes on" in ended.stderr
    # Saved where it stopped, although checkpoints are due every third step only.
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert 3 <= newest_of(workdir) < _STEPS
    assert newest_of(workdir) >= json.loads(lines[-1])["step"]


def test_killed_and_stopped_runs_end_like_an_undisturbed_one(start, tmp_path):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    config = digits.get_config()
    for name, value in _FIELDS.items():
        settings.assign(config, name, value)
    rooms.forget_foreign(config, list(_FIELDS))
    train(config, undisturbed)

    # Killed while saving its first checkpoint or soon after, then in mid-run: where
    # exactly depends on the machine, the end must not. Asked to stop between.
    process = start(disturbed)
    wait_for_checkpoint(process, disturbed, 0)
    kill(process, disturbed)
    for number, reached in ((signal.SIGINT, 3), (signal.SIGTERM, 6)):
        process = start(disturbed)
        wait_for_checkpoint(process, disturbed, reached)
        ask_to_stop(process, disturbed, number)
    process = start(disturbed)
    wait_for_checkpoint(process, disturbed, newest_of(disturbed) + 3)
    time.sleep(0.05)
    kill(process, disturbed)
    process = start(disturbed)
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr

    both = disturbed, undisturbed
    jax.tree.map(np.testing.assert_array_equal, *map(weights, both))
    ledgers = [read_ledger(d / "privacy.json") for d in both]
    assert ledgers[0].authorized_steps == ledgers[1].authorized_steps == _STEPS
    assert ledgers[0].epsilon_spent() == ledgers[1].epsilon_spent()
