"""What a person types: modes and flags. For mistakes see ``bad_inputs_test``."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from cheap_compilation import xla_flags_of_children
from commands import CHECKOUT

import dpdm_jax

pytestmark = pytest.mark.slow

_TINY = (
    "--config.network.mlp.base_width=4",
    "--config.network.mlp.hidden_width=8",
    "--config.network.mlp.num_blocks=1",
    "--config.diffusion.noise_multiplicity=2",
    "--config.train.batch_size=100",
    "--config.train.num_steps=4",
    "--config.train.microbatch_size=64",
    "--config.checkpoint.every_steps=2",
    "--config.log.snapshot_every_steps=2",
    "--config.sampler.num_steps=4",
    "--config.sample.num_images=120",
    "--config.evaluate.epochs=2",
    "--config.evaluate.seeds=2",
    "--config.evaluate.lenet_steps=20",
    "--config.evaluate.dp_sgd.epochs=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[pathlib.Path, subprocess.CompletedProcess]:
    """A run of the main job, cut down to seconds, as a person starts it."""
    workdir = tmp_path_factory.mktemp("run")
    command = [sys.executable, "-m", "dpdm_jax.main", f"--workdir={workdir}", *_TINY]
    # Compiled as cheaply as all else here.
    env = os.environ | {"XLA_FLAGS": xla_flags_of_children()}
    where = {"cwd": CHECKOUT, "env": env}
    return workdir, subprocess.run(command, **where, capture_output=True, text=True)


@pytest.fixture(scope="module")
def dpdm(commands):
    """Runs further command lines."""
    small = {"base_width": 4, "hidden_width": 8, "num_blocks": 1}
    of_network = {f"network__mlp__{name}": size for name, size in small.items()}
    commands.plan(train__num_steps=4, train__batch_size=100, **of_network)
    return commands.run


def test_main_job(finished):
    workdir, done = finished
    assert done.returncode == 0, done.stderr
    assert "Differentially private: epsilon = " in done.stdout
    assert "trained on real images by DP-SGD: 0." in done.stdout
    assert "real against real" in done.stdout
    assert "Traceback" not in done.stderr
    for name in (
        "config.json",
        "privacy.json",
        "metrics.jsonl",
        "samples/samples/samples.npz",
        "samples/samples/grid.png",
        "samples/snapshots/step_0000002.png",
        "evaluation/samples.json",
        "evaluation/samples/PRIVATE_closest_pairs_pixels.png",
        "report.html",
    ):
        assert (workdir / name).is_file(), name
    assert list((workdir / "tensorboard").glob("events.*"))
    assert "epsilon" in done.stderr  # of the progress bar
    assert "images/s" in done.stderr


@pytest.mark.parametrize("module", ["dpdm_jax", "dpdm_jax.main"])
def test_help_needs_no_config_and_is_no_failure(dpdm, module):
    done = dpdm("--help", "--config=nowhere.py", module=module)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config" in done.stdout
    assert "--workdir" in done.stdout
    assert "--mode" in done.stdout


@pytest.mark.parametrize("module", ["dpdm_jax", "dpdm_jax.main", "dpdm_jax.release"])
def test_version(dpdm, module):
    done = dpdm("--version", module=module)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"dpdm_jax {dpdm_jax.__version__}\n"


def test_the_package_is_the_command(dpdm):
    done = dpdm("--config.train.batchsize=3", module="dpdm_jax")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config.train.batchsize is an unknown")


def test_what_a_config_file_sets_can_be_taken_back(tmp_path, dpdm):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dpdm_jax.configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.privacy.noise_multiplier = 9.0\n"
        "    return config\n"
    )
    plans = [
        json.loads(dpdm(f"--config={path}", "--mode=plan", "--json", *more).stdout)
        for more in ([], ["--config.privacy.noise_multiplier=None"])
    ]
    assert plans[0]["noise_multiplier"] == 9
    assert plans[1]["noise_multiplier"] < 9
    assert plans[1]["epsilon"] > plans[0]["epsilon"]


def test_main_job_again_finds_it_done(finished, dpdm):
    workdir, _ = finished
    before = (workdir / "privacy.json").read_bytes()
    done = dpdm(f"--workdir={workdir}", *_TINY)
    assert done.returncode == 0, done.stderr
    assert "has been trained" in done.stdout
    assert (workdir / "privacy.json").read_bytes() == before


def test_training_on_is_refused(finished, dpdm):
    workdir, _ = finished
    done = dpdm(f"--workdir={workdir}", "--mode=train", *_TINY)
    assert done.returncode == 2
    assert "is spent" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_extend_mode(finished, tmp_path, dpdm):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    done = dpdm(
        f"--workdir={workdir}",
        "--mode=extend",
        "--config.extend.epsilon=12",
        "--config.extend.num_steps=3",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Spent so far: epsilon = ")
    assert "Phase 2: 3 steps at noise multiplier" in done.stdout
    assert done.stdout.endswith("--mode=train goes on with it.\n")
    total = re.search(r"composed: epsilon = ([\d.]+),", done.stdout)[1]
    done = dpdm(f"--workdir={workdir}", "--mode=plan", *_TINY)
    assert done.returncode == 0, done.stderr
    printed = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert ["epsilon", total] in printed
    phases = [value for name, value in printed if name == "phases"]
    assert len(phases) == 2
    assert f"steps_planned 3, epsilon_planned {total}, " in phases[1]


def test_sample_mode(finished, dpdm):
    workdir, _ = finished
    done = dpdm(
        f"--workdir={workdir}",
        "--mode=sample",
        *_TINY,
        "--config.sample.name=threes",
        "--config.sample.labels=3",
        "--config.sample.num_images=5",
        "--config.sample.png=True",
    )
    assert done.returncode == 0, done.stderr
    with np.load(workdir / "samples" / "threes" / "samples.npz") as archive:
        assert archive["labels"].tolist() == [3] * 5


def test_a_run_brings_its_own_config(finished, dpdm):
    workdir, _ = finished
    few = "--config.sample.name=own", "--config.sample.num_images=5"
    done = dpdm(f"--workdir={workdir}", "--mode=sample", *few)
    assert done.returncode == 0, done.stderr
    folder = workdir / "samples"
    own, first = (np.load(folder / n / "samples.npz") for n in ("own", "samples"))
    np.testing.assert_array_equal(own["images"], first["images"][:5])


def test_select_mode(finished, dpdm):
    workdir, _ = finished
    done = dpdm(
        f"--workdir={workdir}",
        "--mode=select",
        *_TINY,
        "--config.select.grid.classifier=('logreg','mlp')",
        "--config.select.grid.learning_rate=1e-3",
        "--config.select.real_test=True",
    )
    assert done.returncode == 0, done.stderr
    public, private = done.stdout.split("\n\n")
    assert public.startswith("2 classifiers, each trained 2 times on ")
    assert {line.split()[1] for line in public.splitlines()[2:4]} == {"logreg", "mlp"}
    folder = workdir / "selection" / "samples"
    assert public.endswith(f"Results: {folder / 'ranking.json'}")
    assert private.startswith("PRIVATE, ")
    assert private.endswith(f"Private: {folder / 'PRIVATE_real_test.json'}\n")


def test_learning_curve_mode(finished, dpdm):
    workdir, _ = finished
    done = dpdm(
        f"--workdir={workdir}",
        "--mode=learning_curve",
        *_TINY,
        "--config.learning_curve.num_images=(20,60)",
        "--config.learning_curve.selection_images=20",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PRIVATE, ")
    folder = workdir / "learning_curve" / "samples"
    lines = (folder / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["num_images"] for line in lines] == [20, 60]
    assert (folder / "curve.png").is_file()


def test_release_mode_and_its_verification(finished, dpdm):
    workdir, _ = finished
    done = dpdm(
        f"--workdir={workdir}",
        "--mode=release",
        *_TINY,
        "--config.release.samples=samples",
        "--config.release.dtype=float16",
    )
    assert done.returncode == 0, done.stderr
    assert "Differentially private: epsilon = " in done.stdout
    folder = workdir / "release"
    done = dpdm("verify", str(folder), module="dpdm_jax.release")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "samples.npz").unlink()
    done = dpdm("verify", str(folder), module="dpdm_jax.release")
    assert done.returncode == 1
    # Missing from the sums, not as the manifest describes, and not as stated.
    missing, unread, unstated = done.stdout.splitlines()
    assert missing.startswith("samples.npz is missing")
    assert unread.startswith("samples.npz cannot be read")
    assert unstated.startswith("samples.npz is not the file that PRIVACY.json is about")


def test_report_mode(finished, dpdm):
    workdir, _ = finished
    done = dpdm(
        f"--workdir={workdir}", "--mode=report", "--config.report.private_parts=False"
    )
    assert done.returncode == 0, done.stderr
    path = workdir / "report_public.html"
    assert done.stdout == f"Report: {path}\n"
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_report_mode_of_several_runs(finished, dpdm, tmp_path):
    workdir, _ = finished
    for name in ("config.json", "privacy.json"):
        shutil.copy(workdir / name, tmp_path)
    done = dpdm("--mode=report", f"--workdir={tmp_path}", str(workdir), str(tmp_path))
    assert done.returncode == 0, done.stderr
    path = tmp_path / "comparison.html"
    assert done.stdout == f"Comparison: {path}\n"
    assert "2 runs compared" in path.read_text()


def test_plan_mode_json_is_one_line(dpdm):
    done = dpdm("--config=configs/cifar10.py", "--mode=plan", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.strip().splitlines()
    plan = json.loads(line)
    for name in (
        "noise_multiplier",
        "sampling_probability",
        "num_steps",
        "expected_batch_size",
        "max_batch_size",
        "epsilon",
        "delta",
        "accountant",
        "epsilon_rdp",
        "epsilon_pld",
        "num_parameters",
        "noise_multiplicity",
        "estimated_device_memory_bytes",
        "estimated_seconds_per_step",
    ):
        assert name in plan
    assert plan["num_steps"] == 12500


def test_delta_of_one_over_n_is_a_warning(dpdm):
    done = dpdm("--mode=plan", "--config.privacy.delta=0.01")
    assert done.returncode == 0
    assert "warning: delta is 0.01" in done.stderr


def test_a_mistake_exits_with_2_and_without_a_traceback(tmp_path, dpdm):
    done = dpdm("--config.train.batchsize=3", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --config.train.batchsize is an unknown")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
