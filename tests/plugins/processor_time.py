"""A pytest plugin that counts processor time, which other work hardly changes.

At its end the suite names its costliest tests, its folders and its total: user and
system time of all processes that it ran. A total above the budget in the environment
fails.
"""

import os
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

#: Seconds that all tests together may take; unset for no limit.
BUDGET = "DPDM_JAX_TESTS_CPU_SECONDS"


def of_forkserver() -> float:
    """Seconds of the server that multiprocessing forks from, and of what ended there.

    Nobody waits for it, and there is no public way to ask which process it is.
    """
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


#: Seconds of children that have not ended yet, or whose parents have not.
elsewhere: list[Callable[[], float]] = [of_forkserver]


def used() -> float:
    """Processor seconds of this process and its children since it began."""
    return sum(os.times()[:4]) + sum(seconds() for seconds in elsewhere)


class ProcessorTime:
    """The plugin of one session, in the process that reports and in its workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._last = used()
        self._of_workers = 0.0
        self._of_tests: dict[str, float] = {}

    def pytest_runtest_logstart(self) -> None:
        """Leaves out what the process did before its first test."""
        if not self._of_tests:
            self._last = used()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Any:
        """Notes on a test's report what the phase that it ends has taken."""
        report = yield
        now = used()
        report.processor_seconds = now - self._last
        self._last = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds up the phases of a test."""
        so_far = self._of_tests.get(report.nodeid, 0.0)
        # The report of a test that ended its worker comes from no phase of it.
        seconds = getattr(report, "processor_seconds", 0.0)
        self._of_tests[report.nodeid] = so_far + seconds

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Takes a worker's total, imports included."""
        self._of_workers += getattr(node, "workeroutput", {}).get(BUDGET, 0.0)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fails a session that is over budget."""
        if self._is_worker:
            self._config.workeroutput[BUDGET] = used()
        elif self._is_over() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Prints the costliest tests and the total."""
        terminalreporter.section("processor time")
        of_folders: dict[str, float] = {}
        for name, seconds in self._of_tests.items():
            folder = name.partition("::")[0].rpartition("/")[0] or "."
            of_folders[folder] = of_folders.get(folder, 0.0) + seconds
        shown = self._config.getoption("--costliest")
        for times, number in (self._of_tests, shown), (of_folders, None):
            costliest = sorted(times.items(), key=lambda item: -item[1])
            for name, seconds in costliest[:number]:
                terminalreporter.write_line(f"{seconds:7.1f} s  {name}")
        allowed = f" of {_budget():g} s allowed" if _budget() else ""
        terminalreporter.write_line(f"{self._total():7.1f} s  in all{allowed}")
        if self._is_over():
            terminalreporter.write_line(
                "FAILED: the tests take more processor time than their budget.",
                red=True,
            )

    def _total(self) -> float:
        # Workers are children, too, and may or may not have ended.
        return self._of_workers + sum(os.times()[:2]) if self._of_workers else used()

    def _is_over(self) -> bool:
        return bool(_budget()) and self._total() > _budget()


def _budget() -> float:
    return float(os.environ.get(BUDGET) or 0)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Lets a person see more tests than the ten costliest."""
    parser.addoption(
        "--costliest",
        type=int,
        default=10,
        help="how many tests are named with the processor time that they took",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the plugin."""
    config.pluginmanager.register(ProcessorTime(config))
