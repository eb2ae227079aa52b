"""Every benchmark runs and prints the keys that its documentation names."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types

import cheap_compilation
import pytest

from experiments.benchmarks import (
    finetune_step,
    first_step,
    memory,
    scaling,
    worker,
)

# Key -> the package without which it is not printed.
STEP_KEYS = {
    "private_over_nonprivate": None,
    "jax_privacy_over_ours": "jax_privacy",
    "jax_privacy_plain_over_ours": "jax_privacy",
    "ours_private_over_torch_nonprivate": "torch",
    "opacus_over_ours": "opacus",
    "opacus_ghost_over_ours": "opacus",
}
FINETUNE_KEYS = {
    "private_over_ordinary": None,
    "private_over_ordinary_processor": None,
    "private_over_torch": "torch",
    "ordinary_over_torch": "torch",
    "compiled_memory_over_ordinary": None,
    "resident_memory_over_ordinary": None,
}
KEYS = {
    "step_time": STEP_KEYS,
    "finetune_step": FINETUNE_KEYS,
    "latent_step": {"private_over_ordinary": None},
    "memory": {
        "private_over_nonprivate_memory": None,
        "private_over_nonprivate_resident": None,
    },
    "sampling": {"ours_over_torch": "torch"},
    "evaluation": {"ours_over_torch": "pytorch_fid"},
    "noise_draw": {"exact_over_float": None},
    "data_reading": {"on_demand_over_in_memory": None, "same_digest": None},
    "first_step": {
        "cold_seconds": None,
        "warm_seconds": None,
        "plain_port_seconds": None,
        "cold_over_plain_port": None,
    },
}


@pytest.fixture(autouse=True)
def _sides_compile_cheaply(monkeypatch):
    flags = cheap_compilation.xla_flags_of_children()
    monkeypatch.setenv("XLA_FLAGS", flags)
    # Of those it asks for what a user's environment has.
    environment = first_step._environment
    monkeypatch.setattr(
        first_step, "_environment", lambda: environment() | {"XLA_FLAGS": flags}
    )


class Forked:
    """What benchmarks know of ``subprocess``, by the server of commands.

    Its processes need not import what the server has.
    """

    DEVNULL, PIPE = subprocess.DEVNULL, subprocess.PIPE

    def __init__(self, commands):
        self._commands = commands

    def Popen(self, command, cwd, env=None, **pipes):
        assert command[:2] == [sys.executable, "-m"]
        told = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}
        name = "JAX_COMPILATION_CACHE_DIR"
        told |= {name: env[name]} if name in (env or {}) else {}
        is_piped = pipes.get("stdout") == subprocess.PIPE
        started = self._commands.start(
            *command[3:], module=command[2], cwd=cwd, env=told, piped=is_piped
        )
        return types.SimpleNamespace(
            stdin=started.stdin,
            stdout=started.stdout,
            poll=started.poll,
            wait=lambda: started.wait().returncode,
        )

    def run(self, command, check, cwd, **pipes):
        assert check
        assert pipes == {"stdout": subprocess.PIPE, "text": True}
        done = self._commands.start(*command[3:], module=command[2], cwd=cwd).wait()
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture
def forked(commands, monkeypatch):
    """Sides in processes that need not import what the server of commands has."""
    for module in (worker, first_step, finetune_step, memory):
        monkeypatch.setattr(module, "subprocess", Forked(commands))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "memory",
        "sampling",
        "evaluation",
        "noise_draw",
        "data_reading",
        "finetune_step",
        "latent_step",
        # Compile several programs anew.
        pytest.param("step_time", marks=pytest.mark.slow),
        pytest.param("first_step", marks=pytest.mark.slow),
    ],
)
def test_prints_the_documented_keys(name, capfd, request):
    if name != "sampling":  # whose sides are processes as for users
        request.getfixturevalue("forked")
    if name in ("memory", "finetune_step", "data_reading") and sys.platform != "linux":
        pytest.skip("reads /proc")
    benchmark = importlib.import_module(f"experiments.benchmarks.{name}")
    benchmark.main(["--quick", "--json"])
    (line,) = capfd.readouterr().out.strip().splitlines()
    result = json.loads(line)
    assert result["benchmark"] == name
    for key, package in KEYS[name].items():
        if package is None or importlib.util.find_spec(package):
            assert result[key] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_devices_and_processes_end_alike(capfd):
    scaling.main(["--quick", "--json"])
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert list(result["layouts"]) == ["1 x 1", "1 x 2", "2 x 1"]
    assert result["same_indices"] is True
    assert result["same_noise"] is True
    assert result["max_abs_deviation"] < 1e-4
    assert all(size["seconds"]["median"] > 0 for size in result["sizes"]["batch_size"])
