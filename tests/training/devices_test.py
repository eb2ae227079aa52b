"""More devices change neither the batches nor the draws, only who computes them."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from dpdm_jax import command_line

# Runs in a process of its own, since the number of devices is fixed at start.
_PROGRAM = """
import json, sys, pathlib
from dpdm_jax import command_line, xla_flags
xla_flags.configure()
import jax
import numpy as np
from dpdm_jax.sampling import run
from dpdm_jax.training import from_config, loop

config = command_line.load_config("configs/digits.py")
with config.unlocked():
    for name, value in json.loads(sys.argv[2]).items():
        group, field = name.split(".")
        config[group][field] = value
workdir = pathlib.Path(sys.argv[1])
make, texts = from_config.make_train_step, {}

def spy(*args, **kwargs):
    fns = make(*args, **kwargs)
    def lowered(name):
        fn = getattr(fns, name)
        def call(*args):
            if name not in texts:
                texts[name] = fn.lower(*args).compile().as_text()
            return fn(*args)
        return call
    return type(fns)(fns.start, lowered("accumulate"), lowered("finish"))

from_config.make_train_step = spy
state = loop.train(config, workdir)
folder = run.sample(config, workdir)
params = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])
np.savez(
    workdir / "result.npz",
    params=params,
    images=np.load(folder / "samples.npz")["images"],
    devices=jax.device_count(),
    reductions=[text.count(" all-reduce(") for text in
                (texts["accumulate"], texts["finish"])],
)
"""

_OVERRIDES = {
    "network.base_width": 4,
    "network.hidden_width": 8,
    "network.num_blocks": 1,
    "diffusion.noise_multiplicity": 2,
    "privacy.fixed_keys_seed": 5,
    "train.batch_size": 200,
    "train.num_steps": 3,
    "train.microbatch_size": 64,
    "log.every_steps": 1,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
    "sampler.num_steps": 4,
    "sample.num_images": 10,
    "sample.batch_size": 4,
}


def _run(workdir: pathlib.Path, devices: int):
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(workdir), json.dumps(_OVERRIDES)],
        env=os.environ | {"XLA_FLAGS": flags},
        cwd=command_line.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(workdir / "result.npz") as archive:
        result = dict(archive)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    result["metrics"] = [json.loads(line) for line in lines]
    assert result["devices"] == devices
    return result


def test_four_devices_give_what_one_gives(tmp_path):
    one, four = (_run(tmp_path / str(n), n) for n in (1, 4))
    # Sums over examples are grouped by device, which moves the last bits.
    np.testing.assert_allclose(four["params"], one["params"], rtol=1e-4, atol=1e-5)
    difference = np.abs(four["images"].astype(int) - one["images"])
    assert difference.max() <= 1
    sizes = [[m["private/batch_size"] for m in r["metrics"]] for r in (one, four)]
    assert sizes[0] == sizes[1]
    losses = [[m["private/loss"] for m in r["metrics"]] for r in (one, four)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    # Devices speak once a logical step: never while gathering micro-batches.
    accumulate, finish = four["reductions"]
    assert accumulate == 0
    assert finish >= 1
