"""A real process, killed without warning, ends where an undisturbed one does."""

import json
import signal
import time

import jax
import numpy as np
import pytest

from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.training.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

_STEPS = 40
_FLAGS = (
    "--mode=train",
    "--config.network.mlp.base_width=4",
    "--config.network.mlp.hidden_width=8",
    "--config.diffusion.parameterization=edm",
    "--config.diffusion.noise_multiplicity=2",
    "--config.privacy.moments_share=0",
    "--config.privacy.fixed_keys_seed=1",
    "--config.privacy.accountant=rdp",  # the quicker, as each step is logged
    "--config.train.batch_size=100",
    f"--config.train.num_steps={_STEPS}",
    "--config.train.microbatch_size=64",
    "--config.checkpoint.every_steps=3",
    "--config.log.every_steps=1",
    "--config.log.snapshot_every_steps=0",
    "--config.log.tensorboard=False",
)


@pytest.fixture
def start(commands):
    """Starts the run in a directory."""
    return lambda workdir: commands.start(f"--workdir={workdir}", *_FLAGS)


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


def test_killed_runs_end_like_an_undisturbed_one(start, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(undisturbed)
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr

    # Killed while saving its first checkpoint or soon after, then in mid-run: where
    # exactly depends on the machine, the end must not.
    for reached, delay in ((0, 0.0), (6, 0.05), (15, 0.3)):
        process = start(killed)
        wait_for_checkpoint(process, killed, reached)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (killed / "privacy.json").exists():
            record = read_ledger(killed / "privacy.json")
            checkpoints = Checkpoints(killed)
            newest = max(checkpoints.steps(), default=0)
            checkpoints.close()
            assert record.authorized_steps >= newest
    process = start(killed)
    ended = process.wait()
    assert ended.returncode == 0, ended.stderr

    jax.tree.map(np.testing.assert_array_equal, weights(killed), weights(undisturbed))
    ledgers = [read_ledger(d / "privacy.json") for d in (killed, undisturbed)]
    assert ledgers[0].authorized_steps == ledgers[1].authorized_steps == _STEPS
    assert ledgers[0].epsilon_spent() == ledgers[1].epsilon_spent()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_and_exits_with_one_line(start, tmp_path, number):
    process = start(tmp_path)
    wait_for_checkpoint(process, tmp_path, 3)
    process.send_signal(number)
    ended = process.wait()
    assert ended.returncode == 128 + number
    assert "Traceback" not in ended.stderr
    assert "the same command goes on" in ended.stderr
    # Saved where it stopped, although checkpoints are due every third step only.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    checkpoints = Checkpoints(tmp_path)
    newest = checkpoints.steps()[-1]
    checkpoints.close()
    assert 3 <= newest < _STEPS
    assert newest >= json.loads(lines[-1])["step"]
