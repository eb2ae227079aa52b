"""More devices or processes change no batch, noise or image, only who computes them."""

import fcntl
import itertools
import json
import pathlib
import signal
import socket
import stat

import numpy as np
import pytest
from commands import Commands

from dpdm_jax.privacy import read_ledger

pytestmark = pytest.mark.slow

_PROGRAM = pathlib.Path(__file__).parent / "devices_program.py"
_OVERRIDES = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "network.mlp.num_blocks": 1,
    "diffusion.noise_multiplicity": 2,
    "privacy.fixed_keys_seed": 5,
    "privacy.noise_multiplier": 1.0,  # spares each process the calibration
    "train.batch_size": 200,
    "train.num_steps": 4,
    "train.microbatch_size": 64,
    "checkpoint.every_steps": 10,
    "log.every_steps": 1,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
    "sampler.num_steps": 4,
    "sample.num_images": 10,
    "sample.batch_size": 4,
}


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


class Program:
    """So many processes of so many devices, which do one job after another."""

    def __init__(self, commands: Commands, processes: int, devices: int):
        address = free_address()
        flags = f"--xla_force_host_platform_device_count={devices}"
        self._devices = processes * devices, devices
        self._processes = [
            commands.start(
                *(address, str(processes), str(i)),
                module=str(_PROGRAM),
                env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                piped=True,
            )
            for i in range(processes)
        ]

    def run(self, folder: pathlib.Path, **job) -> list[dict]:
        """Trains in the folder; returns what each process tells of it."""
        job["workdir"] = str(folder / "run")
        job["overrides"] = _OVERRIDES | job.get("overrides", {})
        for process in self._processes:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        lines = [process.stdout.readline() for process in self._processes]
        assert all(lines), [process.wait().stderr for process in self._processes]
        told = list(map(json.loads, lines))
        assert all((t["devices"], t["local_devices"]) == self._devices for t in told)
        return told

    def close(self) -> None:
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def program(commands):
    """Starts the processes of a layout, once."""
    started = {}

    def start(processes: int, devices: int) -> Program:
        layout = processes, devices
        if layout not in started:
            started[layout] = Program(commands, *layout)
        return started[layout]

    yield start
    for running in started.values():
        running.close()


@pytest.fixture(scope="module")
def one(program, tmp_path_factory):
    """One process with one device: what the others must end like."""
    folder = tmp_path_factory.mktemp("one")
    (told,) = program(1, 1).run(folder, sample=True, measure=True)
    return folder, told


@pytest.fixture(scope="module")
def several(program, tmp_path_factory):
    """One run that goes on under changing numbers of processes and devices.

    2 x 2 until process 1 gets a SIGTERM in the third step, 1 x 4 for that step, then
    2 x 2 for the fourth and for images.
    """
    folder = tmp_path_factory.mktemp("several")
    locked = folder / "locked"
    locked.mkdir()
    with open(locked / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        interrupted = program(2, 2).run(
            folder, locked=str(locked), unreadable_on=1, interrupt_at=2, exchanges=True
        )
    checkpoints = sorted(p.name for p in (folder / "run" / "checkpoints").iterdir())
    seen = {"measure": True, "exchanges": True}
    stopped = {"train.stop_after_steps": 3}
    alone = program(1, 4).run(folder, overrides=stopped, **seen)
    last = program(2, 2).run(folder, sample=True, **seen)
    return folder, checkpoints, interrupted, alone, last


@pytest.fixture(scope="module")
def sharded(program, tmp_path_factory):
    """A run whose devices keep a part of the state each: 2 x 2, then 1 x 4."""
    folder = tmp_path_factory.mktemp("sharded")
    overrides = {"train.sharded_state": True, "train.power_averages": (0.05, 0.1)}
    stopped = overrides | {"train.stop_after_steps": 2}
    first = program(2, 2).run(folder, overrides=stopped, exchanges=True)
    return first, program(1, 4).run(folder, overrides=overrides, exchanges=True)


def samples(folder):
    with np.load(folder / "run" / "samples" / "samples" / "samples.npz") as archive:
        return archive["images"].astype(int)


def test_the_end_is_that_of_one_device(one, several):
    expected, last = one[1], several[-1]
    # The sums are exact, but a gradient's last bits depend on the batch's shape.
    for name in ("params", "ema"):
        for told in last:
            np.testing.assert_allclose(told[name], expected[name], rtol=1e-4, atol=1e-5)
        # Every process ends with the same bits, or they would drift apart.
        assert last[0][name] == last[1][name]


def test_images_are_those_of_one_device(one, several):
    # Truncation to uint8 can turn a last bit into a grey level.
    assert np.abs(samples(several[0]) - samples(one[0])).max() <= 1


def test_batches_are_those_of_one_device(one, several):
    expected = one[1]["selected"]
    assert list(expected) == ["0", "1", "2", "3"]
    _, _, interrupted, alone, last = several
    for told, steps in (*((t, "012") for t in interrupted), (alone[0], "2")):
        assert told["selected"] == {step: expected[step] for step in steps}
    for told in last:
        assert told["selected"] == {"3": expected["3"]}


def test_each_process_reads_its_own_examples(several):
    _, _, interrupted, alone, last = several
    for told, steps in ((interrupted, "01"), (alone, "2"), (last, "3")):
        for step in steps:
            read = [t["loaded"][step] for t in told]
            assert all(read), "a process read nothing"
            assert sorted(itertools.chain(*read)) == told[0]["selected"][step]


def test_noise_is_that_of_one_device_bit_for_bit(one, several):
    drawn = np.array(one[1]["noise"])
    assert drawn.shape == (2, 10_007)
    # 20,014 draws: within 2.5 % but for less than 1 in 10^6.
    assert abs(drawn.std() - 1) < 0.025
    *_, alone, last = several
    for told in (*alone, *last):
        np.testing.assert_array_equal(told["noise"], drawn)
        np.testing.assert_array_equal(told["noise_in_parts"], drawn)


def test_a_sum_is_that_of_one_device_bit_for_bit(one, several):
    *_, alone, last = several
    (expected,) = one[1]["sums"].values()
    assert np.abs(expected).max() > 2**28
    for told, numbers in ((alone[0], "124"), *((t, "4") for t in last)):
        assert list(told["sums"]) == list(numbers)
        assert all(found == expected for found in told["sums"].values())


def test_so_is_a_sum_that_is_kept_in_parts(one, several):
    """Where devices keep parts of the state: of leaves that divide, and of others."""
    *_, alone, last = several
    shares, expected = one[1]["parts"]
    assert shares == [1, 1]
    assert np.abs(expected).max() > 2**28
    for told in (alone[0], *last):
        assert told["parts"] == [[1 / 4, 1], expected]


def test_devices_that_keep_parts_of_the_state_end_alike(one, sharded):
    first, (last,) = sharded
    expected = one[1]
    for name in ("params", "ema"):
        assert first[0][name] == first[1][name]
        np.testing.assert_allclose(last[name], expected[name], rtol=1e-4, atol=1e-5)
    # All of it in quarters, but for a few arrays that do not divide.
    for told in (*first, last):
        assert told["held"]["params"] == 1
        assert 1 / 4 <= told["held"]["ema_params"] < 0.3
        assert 1 / 4 <= told["held"]["opt_state"] < 0.3
        assert 1 / 4 <= told["held"]["power_averages"] < 0.3
        # The sum is given out in parts, and the weights alone are gathered.
        exchanges = told["exchanges"]["finish"]
        assert exchanges.count("reduce-scatter") == 1
        assert set(exchanges) == {"all-gather", "all-reduce", "reduce-scatter"}
    assert set(expected["held"].values()) == {1}
    # From copies that two layouts wrote.
    np.testing.assert_allclose(last["rebuilt"], last["kept"], rtol=1e-6, atol=1e-6)


def test_secrets_are_drawn_by_process_0_alone(several):
    for part in several[2:]:
        assert [t["drawn_secrets"] for t in part] == [1] + [0] * (len(part) - 1)


def test_moments_are_those_of_one_process(program, tmp_path):
    overrides = {
        "diffusion.parameterization": "edm_moments",
        "diffusion.edm_moments.components": 2,
        "privacy.moments_noise_multiplier": 3.0,
        "train.num_steps": 1,
    }
    ends = []
    for processes in (1, 2):
        layout = processes, 4 // processes
        ends += program(*layout).run(tmp_path / str(processes), overrides=overrides)
    for told in ends[1:]:
        np.testing.assert_allclose(
            told["params"], ends[0]["params"], rtol=1e-4, atol=1e-5
        )
        assert told["loaded"]["-1"] == ends[0]["loaded"]["-1"]
        assert len(told["loaded"]["-1"]) == 3 * 1437  # each example, by each query
    assert ends[1]["params"] == ends[2]["params"]


@pytest.fixture(scope="module")
def people_in_latents(program, tmp_path_factory):
    """Images of people behind a codec, of one device and of 2 x 2.

    The one encodes images in each step; of the others process 0 keeps their laws.
    """
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    np.savez(
        folder / "train.npz",
        images=rng.integers(0, 256, (len(people), 8, 8, 1), np.uint8),
        labels=rng.integers(0, 10, len(people)),
        person=rng.permutation(people),
    )
    overrides = {
        "codec.name": "kl",
        "codec.kl.base_channels": 32,
        "codec.kl.num_res_blocks": 1,
        "codec.kl.attention_factors": [],
        "data.source": "npz",
        "data.path": str(folder),
        "data.num_examples": 0,
        "data.group": "person",
        "diffusion.parameterization": "edm",
        "train.images_per_group": 3,
        "train.batch_size": 15,
        "train.num_steps": 2,
        "train.microbatch_size": 8,
    }
    ends = []
    for processes, devices, cache in ((1, 1, "off"), (2, 2, "disk")):
        (folder / cache).mkdir()
        job = {"overrides": overrides | {"codec.cache": cache}}
        ends.append(program(processes, devices).run(folder / cache, **job))
    (expected,), told = ends
    return folder, expected, told, overrides


def test_laws_that_process_0_keeps_end_like_those_of_each_step(people_in_latents):
    folder, expected, told, _ = people_in_latents
    assert told[0]["params"] == told[1]["params"]
    np.testing.assert_allclose(
        told[0]["params"], expected["params"], rtol=1e-4, atol=1e-5
    )
    assert not (folder / "off" / "run" / "latents").exists()
    (laws,) = (folder / "disk" / "run" / "latents").iterdir()
    assert stat.S_IMODE(laws.stat().st_mode) == 0o700


def test_people_are_those_of_one_device(people_in_latents):
    """Who is chosen, which of their images are, and who computes them."""
    _, expected, told, _ = people_in_latents
    for step, chosen in expected["selected"].items():
        assert max(chosen) < 30
        read = [t["loaded"][step] for t in told]
        assert all(read), "a process read nothing"
        assert sorted(itertools.chain(*read)) == sorted(expected["loaded"][step])
        assert len(chosen) < len(expected["loaded"][step]) <= 3 * len(chosen)


def test_views_of_their_images_are_those_of_one_device(people_in_latents, program):
    folder, without_views, _, overrides = people_in_latents
    views = {"diffusion.views.crop": 2, "diffusion.views.flip": True}
    ends = []
    for processes, devices in ((1, 1), (2, 2)):
        workdir = folder / f"views_{processes}"
        job = {"overrides": overrides | views}
        ends += program(processes, devices).run(workdir, **job)
    expected, *told = ends
    assert told[0]["params"] == told[1]["params"]
    np.testing.assert_allclose(
        told[0]["params"], expected["params"], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(expected["params"], without_views["params"], 1e-3, 1e-4)


def test_devices_speak_once_a_logical_step(several):
    """As compiled: all-reduces of sum and diagnostics, and the parts of the noise."""
    for told in (t for part in several[2:] for t in part):
        assert told["exchanges"]["accumulate"] == []
        assert told["exchanges"]["finish"] == ["all-gather", "all-reduce", "all-reduce"]


def test_a_signal_to_one_process_stops_all_at_one_step(several):
    _, checkpoints, interrupted, _, _ = several
    assert [t["signal"] for t in interrupted] == 2 * [signal.SIGTERM]
    assert [t["last_step"] for t in interrupted] == [2, 2]
    # Steps 0 and 1 were whole; checkpoints were not due before the end.
    assert checkpoints == ["0", "2"]


def test_what_one_process_cannot_do_ends_all_with_its_words(several):
    told = several[2]
    for name, words in (("locked", "is in use by"), ("unreadable", "is unreadable")):
        assert words in told[0][name]
        assert told[1][name] == told[0][name]
    assert [t["unreadable_step"] for t in told] == [1, 1]


def test_process_0_writes_one_run(one, several):
    folder = several[0]
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [m["step"] for m in metrics] == [1, 2, 3, 4]
    alone = (one[0] / "run" / "metrics.jsonl").read_text().splitlines()
    for m, expected in zip(metrics, map(json.loads, alone), strict=True):
        assert m["private/batch_size"] == expected["private/batch_size"]
        np.testing.assert_allclose(m["private/loss"], expected["private/loss"], 1e-4)
    ledgers = [read_ledger(f / "run" / "privacy.json") for f in (folder, one[0])]
    assert ledgers[0].authorized_steps == ledgers[1].authorized_steps == 4
    assert ledgers[0].plan == ledgers[1].plan
    checkpoints = folder / "run" / "checkpoints"
    assert stat.S_IMODE(checkpoints.stat().st_mode) == 0o700


def test_several_processes_from_the_command_line(commands, tmp_path):
    """They meet, and a mistake is one sentence, the same from each."""
    address = free_address()
    started = [
        commands.start(
            "--mode=train",
            f"--workdir={tmp_path / 'run'}",
            f"--coordinator_address={address}",
            "--num_processes=2",
            f"--process_id={i}",
            f"--config.train.microbatch_size={4 + i}",
        )
        for i in range(2)
    ]
    for ended in [command.wait() for command in started]:
        assert ended.returncode == 2
        assert ended.stderr.strip().splitlines()[-1] == (
            "error: The command line of process 1 is not that of process 0; allowed: "
            "the same on every process."
        )
    assert not (tmp_path / "run").exists()
