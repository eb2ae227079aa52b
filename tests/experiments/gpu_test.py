"""The benchmark for a GPU prints its figures as they come, and outlives failures."""

import json
import sys

import cheap_compilation
import pytest

from experiments.benchmarks import gpu, gpu_tasks, jax_steps

# What a machine with a GPU and JAX need not have.
_ABSENT = ("tensorflow", "orbax", "dp_accounting", "clu", "sklearn", "matplotlib")
_ABSENT += ("safetensors", "jinja2", "jax_privacy", "opacus")


@pytest.fixture
def without_heavy_packages(tmp_path, monkeypatch):
    """Of the processes that are started."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({_ABSENT}))\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XLA_FLAGS", cheap_compilation.xla_flags_of_children())


@pytest.mark.slow
@pytest.mark.usefixtures("without_heavy_packages")
def test_all_figures_come_without_heavy_packages(capfd, tmp_path):
    written = tmp_path / "gpu.jsonl"
    gpu.main(["--quick", f"--out={written}"])
    printed = capfd.readouterr().out
    assert written.read_text() == printed
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [line for line in lines if "error" in line] == []
    found = {line["task"]: line for line in lines}
    assert found["describe"]["platform"] == "cpu"
    assert min(found["peak"]["tflops"].values()) > 0
    steps = [line for line in lines if line["task"] == "step"]
    assert [line["engine_used"] for line in steps] == ["vmap", "book_keeping"]
    for line in steps:
        assert line["private_over_nonprivate"]["median"] > 0
        assert 0 < line["of_bfloat16_matrix_products"]["nonprivate"] < 1
        assert min(line["compiled_bytes"].values()) > 0
    assert found["sampling"]["images_per_second"]["sampling"]["median"] > 0
    assert found["memory"]["peak_bytes"] is None
    assert found["memory"]["no_peak_bytes"]
    if "torch_step" in found:
        rates = found["torch_step"]["images_per_second"]
        assert min(rate["median"] for rate in rates.values()) > 0
        assert len(rates) == 2


def test_a_process_that_fails_or_comes_late_is_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "__package__", "a_package_that_is_not_there")
    wanted = [[{"task": "peak"}, {"task": "step"}], [{"task": "memory"}]]
    lines = list(gpu.measure(wanted, 60))
    assert [line["task"] for line in lines] == ["peak", "step", "memory"]
    for line in lines:
        assert line["error"] == "it ended with status 1"
        assert "No module named" in line["said"][-1]
    (line,) = gpu.measure(wanted[1:], 5)
    assert line == {"task": "memory", "skipped": "5 s are left"}
    monkeypatch.setattr(gpu, "_LEAST_SECONDS", 0)
    slow = tmp_path / "slow"
    slow.write_text('#!/bin/sh\necho \'{"task": "peak"}\'\nexec sleep 60\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    done, late = gpu.measure(wanted[:1], 1)
    assert done == {"task": "peak"}
    assert late == {"task": "step", "error": "not done within 1 s", "said": []}


@pytest.mark.slow
def test_a_side_that_fails_leaves_the_other(monkeypatch):
    def no_memory(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand details")

    monkeypatch.setattr(jax_steps, "private", no_memory)
    found = gpu_tasks.step("mlp", "tf32", "vmap", 4, rounds=1, round_seconds=0)
    assert found["failed"] == {
        "private": "RuntimeError: RESOURCE_EXHAUSTED: Out of memory"
    }
    assert list(found["seconds"]) == list(found["work_tflops"]) == ["nonprivate"]
    assert "private_over_nonprivate" not in found


def test_a_task_that_raises_is_a_line():
    wanted = [{"task": "step", "network": "none"}, {"task": "sampling"}]
    lines = list(gpu_tasks.run(wanted))
    assert [line["task"] for line in lines] == ["step", "sampling"]
    assert all(line["error"].startswith("TypeError: ") for line in lines)


def test_a_figure_stands_beside_earlier_ones():
    rates = {}
    ours = {"network": "mnist", "precision": "tf32"}
    ours |= {"images_per_second": {"private": {"median": 30.0}}}
    ours |= {"work_tflops": {"private": 4.0}}
    peaks = {"bfloat16": 10.0, "tf32": 8.0, "float32": 1.0}
    assert gpu._beside(ours, peaks, rates) == {
        "of_bfloat16_matrix_products": {"private": 0.4},
        "of_tf32_matrix_products": {"private": 0.5},
    }
    other_engine = ours | {"engine": "scan", "work_tflops": {}}
    other_engine["images_per_second"] = {"private": {"median": 99.0}}
    assert gpu._beside(other_engine, peaks, rates) == {}
    theirs = ours | {"work_tflops": {}, "engine": "auto"}
    theirs["images_per_second"] = {"torch_hooks": {"median": 12.0}}
    assert gpu._beside(theirs, peaks, rates) == {
        "private_times_as_fast_as_torch_hooks": 2.5
    }
    assert gpu._beside(theirs | {"network": "cifar10"}, peaks, rates) == {}


def test_what_matters_most_comes_first():
    wanted = gpu.tasks(quick=False, has_torch=False)
    assert [task["task"] for task in wanted[:4]] == ["describe", "peak"] + 2 * ["step"]
    assert {task["precision"] for task in wanted if task["task"] == "step"} == {
        "bfloat16",
        "tf32",
        "float32",
    }
    engines = {task["engine"] for task in wanted if task["task"] == "step"}
    assert engines == {"auto", "vmap", "book_keeping", "scan"}
    with_torch = gpu.tasks(quick=False, has_torch=True)
    assert [t for t in with_torch if not t["task"].startswith("torch")] == wanted
