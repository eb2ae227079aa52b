"""Every benchmark runs and prints the keys that its documentation names."""

import functools
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
    cost_curves,
    data_reading,
    finetune_step,
    first_step,
    large_models,
    machine,
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
    "few_rows": {"plain_over_ours": None},
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
def _speed_is_looked_at_briefly(monkeypatch):
    of_small = functools.partial(machine.matrix_product_rate, size=64)
    monkeypatch.setattr(machine, "matrix_product_rate", of_small)


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


@pytest.fixture(scope="module")
def with_torch(commands):
    """The server of commands, with what half of the sides would import."""
    if importlib.util.find_spec("torch"):
        commands.preload("torch")
    return commands


@pytest.fixture
def forked(with_torch, monkeypatch):
    """Sides in processes that need not import what the server of commands has."""
    for module in (worker, first_step, finetune_step, memory, data_reading):
        monkeypatch.setattr(module, "subprocess", Forked(with_torch))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "memory",
        "sampling",
        "evaluation",
        "few_rows",
        "noise_draw",
        "data_reading",
        "finetune_step",
        "latent_step",
        "step_time",
        "first_step",
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


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_points_of_cost_curves_are_printed_kept_and_drawn(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(cost_curves, "RESULTS", tmp_path / "curves.jsonl")
    monkeypatch.setattr(cost_curves, "PICTURE", tmp_path / "curves.png")
    cost_curves.main(["--quick", "--write"])
    printed = capfd.readouterr().out
    assert cost_curves.RESULTS.read_text() == printed
    assert cost_curves.PICTURE.read_bytes().startswith(b"\x89PNG")
    *points, origin = map(json.loads, printed.splitlines())
    assert origin["commit"]
    assert [(p["axis"], cost_curves.value(p)) for p in points] == [
        ("examples", 4),
        ("examples", 8),
        ("devices, sharded state", 2),
    ]
    for point in points:
        assert point["seconds"]["median"] > 0
        assert point["processor_seconds"]["median"] > 0
        # Weights, average and two moments are among what a step takes.
        share = 1 + 3 / point["devices"] if point["is_sharded"] else 4
        assert point["bytes_on_a_device"] > share * 4 * point["weights"]


def test_committed_cost_curves_have_all_points():
    lines = [json.loads(line) for line in cost_curves.RESULTS.open()]
    assert lines[-1]["commit"]
    points = cost_curves.by_axis(lines)
    assert points.keys() == cost_curves.AXES.keys()
    for axis, works in cost_curves.AXES.items():
        assert [
            cost_curves.Work(*(point[name] for name in cost_curves.Work._fields))
            for point in points[axis]
        ] == works


def test_a_power_law_has_its_exponent():
    assert cost_curves.exponent([2, 4, 8], [3.0, 9.0, 192.0]) == pytest.approx(3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.usefixtures("forked")
def test_large_networks_stand_beside_pytorch(capfd):
    large_models.main(["--quick"])
    pixels, latents = map(json.loads, capfd.readouterr().out.splitlines())
    assert (pixels["views"], latents["views"]) == (2, 2)
    has_torch = importlib.util.find_spec("torch") is not None
    for line, sides in (pixels, {"ordinary"}), (latents, {"private_part"}):
        wanted = sides | ({"torch_ordinary"} if has_torch else set())
        assert set(line["seconds_a_view"]) == set(line["bytes"]) == wanted
        assert min(line["bytes"].values()) > 10**5
        private = {name for name in sides if name.startswith("private")}
        assert set(line["planned_bytes"]) == private
        for name in private:
            ratio = line["planned_bytes"][name] / line["bytes"][name]
            assert 0.2 < ratio < 5
        if has_torch:
            assert set(line["seconds_over_torch"]) == sides
