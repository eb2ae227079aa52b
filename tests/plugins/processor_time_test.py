"""The guard of the suite's own processor time."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

_TESTS = """
import subprocess, sys, time

def test_of_its_own():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass

def test_in_a_child():
    code = "import time\\nwhile time.process_time() < 0.6: pass"
    subprocess.run([sys.executable, "-c", code], check=True)

def test_that_waits():
    time.sleep(0.1)
"""


_CRASH = """
import os

def test_that_ends_its_worker():
    os.abort()

def test_that_comes_after():
    pass
"""


_FORKED = """
import multiprocessing, time

def burn():
    while time.process_time() < 0.6:
        pass

def test_in_a_process_of_a_server_that_nobody_waits_for():
    process = multiprocessing.get_context("forkserver").Process(target=burn)
    process.start()
    process.join()
"""


def run(
    folder: pathlib.Path, workers: int, budget: float, tests: str = _TESTS
) -> tuple[int, str]:
    (folder / "burn_test.py").write_text(tests)
    plugins = ("-p", "processor_time", "-p", "xdist")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, f"-n{workers}"],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(pathlib.Path(__file__).parent)}
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        | {"DPDM_JAX_TESTS_CPU_SECONDS": str(budget)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_the_costliest_tests_and_the_total_are_printed(tmp_path):
    status, said = run(tmp_path, workers=0, budget=100)
    assert status == 0, said
    lines = said.partition("processor time")[2].splitlines()[1:]
    costs = {line.split()[-1]: float(line.split()[0]) for line in lines if "::" in line}
    assert list(costs) == sorted(costs, key=costs.get, reverse=True)
    assert costs["burn_test.py::test_of_its_own"] >= 0.25
    assert costs["burn_test.py::test_in_a_child"] >= 0.55
    assert costs["burn_test.py::test_that_waits"] < 0.25
    (total,) = (line for line in lines if "in all of 100 s allowed" in line)
    assert float(total.split()[0]) >= sum(costs.values())


@pytest.mark.slow
def test_workers_over_budget_fail_though_every_test_passes(tmp_path):
    status, said = run(tmp_path, workers=2, budget=0.8)
    assert "3 passed" in said
    assert status == 1, said
    (total,) = (line for line in said.splitlines() if "in all of 0.8 s" in line)
    assert float(total.split()[0]) >= 0.8  # what the workers' children took, too
    assert "FAILED: the tests take more processor time than their budget." in said


@pytest.mark.slow
def test_a_crash_is_one_failure_among_the_others(tmp_path):
    status, said = run(tmp_path, workers=1, budget=100, tests=_CRASH)
    assert status == 1, said
    assert "1 failed, 1 passed" in said
    assert "in all of 100 s allowed" in said


@pytest.mark.slow
def test_processes_of_a_forkserver_are_counted(tmp_path):
    status, said = run(tmp_path, workers=0, budget=100, tests=_FORKED)
    assert status == 0, said
    (line,) = re.findall(r"([0-9.]+) s  burn_test.py::", said)
    assert 0.6 <= float(line) < 5
