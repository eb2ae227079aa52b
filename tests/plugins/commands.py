"""A pytest plugin with a fixture that runs command lines in cheap processes.

They are real ones, with exit status, signals and files of their own; only the imports,
which take seconds, are those of ``command_server``.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import processor_time
import pytest

#: The top of the repository.
CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_SERVER = pathlib.Path(__file__).parent / "command_server.py"


@dataclasses.dataclass
class Command:
    """A command that was started.

    Attributes:
        args: its program and its arguments.
        pid: its process.
        files: its output and its errors.
        ask: asks the server that it was forked from.
        stdin: what it reads, of one that is piped.
        stdout: its output, of one that is piped.
        ended: what the server said of its end; empty while it runs.
    """

    args: list[str]
    pid: int
    files: tuple[pathlib.Path, pathlib.Path]
    ask: Callable[[dict], dict]
    stdin: IO[str] | None = None
    stdout: IO[str] | None = None
    ended: dict = dataclasses.field(default_factory=dict)

    def poll(self) -> int | None:
        """Returns its exit status, negative for a signal; None while it runs."""
        self.ended = self.ended or self.ask({"pid": self.pid})
        return self.ended.get("status")

    def wait(self) -> subprocess.CompletedProcess:
        """Waits for its end and returns what it said."""
        while self.poll() is None:
            self._sleep()
        out, err = self.files
        said = "" if self.stdout else out.read_text()
        return subprocess.CompletedProcess(
            self.args, self.poll(), said, err.read_text()
        )

    def _sleep(self) -> None:
        # To ask again and again took a tenth of the time of what is asked about.
        if not hasattr(os, "pidfd_open"):  # elsewhere than on Linux
            time.sleep(0.005)
            return
        handle = os.pidfd_open(self.pid)
        try:
            asked = select.poll()
            asked.register(handle, select.POLLIN)
            asked.poll()
        finally:
            os.close(handle)

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class Commands:
    """Starts command lines from one server."""

    def __init__(self, folder: pathlib.Path, prefix: Sequence[str] = ()) -> None:
        """Starts the server.

        Args:
            folder: for what the commands say.
            prefix: command that the server is started by.
        """
        self._folder = folder
        self._numbers = itertools.count()
        self._started: list[Command] = []
        self._asking = threading.Lock()
        self._server = subprocess.Popen(
            [*prefix, sys.executable, str(_SERVER)],
            cwd=CHECKOUT,
            # Whatever the test compiles like that happens to be the first to ask.
            env=os.environ
            | {"PYTHONPATH": str(CHECKOUT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._seconds = self._answer()["seconds"]
        processor_time.elsewhere.append(self.seconds)

    def start(
        self,
        *args: str,
        module: str = "dpdm_jax.main",
        cwd: pathlib.Path = CHECKOUT,
        env: Mapping[str, str] | None = None,
        piped: bool = False,
    ) -> Command:
        """Starts ``python -m module *args``.

        Args:
            *args: of the command.
            module: its name, or the path of a file that ends in ".py".
            cwd: where it runs.
            env: what it sees beside the server's environment.
            piped: whether its standard input and output are pipes.
        """
        name = str(next(self._numbers))
        files = self._folder / f"{name}.out", self._folder / f"{name}.err"
        job = {"program": module, "args": args, "cwd": str(cwd), "in": os.devnull}
        job |= {"out": str(files[0]), "err": str(files[1]), "env": dict(env or {})}
        if piped:
            job["in"] = str(self._folder / f"{name}.in")
            for pipe in job["in"], job["out"]:
                os.mkfifo(pipe)
        command = Command([module, *args], self._ask(job)["pid"], files, self._ask)
        self._started.append(command)
        if piped:
            # Opened in the order in which the process opens its ends.
            command.stdin = os.fdopen(os.open(job["in"], os.O_WRONLY), "w")
            command.stdout = os.fdopen(os.open(job["out"], os.O_RDONLY))
        return command

    def run(self, *args: str, **settings: Any) -> subprocess.CompletedProcess:
        """Runs ``python -m module *args``."""
        return self.start(*args, **settings).wait()

    def plan(self, *, network_alone: bool = False, **overrides: Any) -> None:
        """Plans the digits once for all later commands.

        Args:
            network_alone: whether without moments of the classes.
            **overrides: of the config; ``a__b`` is ``config.a.b``.
        """
        fields = {name.replace("__", "."): v for name, v in overrides.items()}
        job = {"overrides": fields, "network_alone": network_alone}
        self._seconds += self._ask(job)["seconds"]

    def preload(self, *modules: str) -> None:
        """Imports modules once for all later commands."""
        self._seconds += self._ask({"import": modules})["seconds"]

    def seconds(self) -> float:
        """Processor time of the server, which is not waited for, and its commands."""
        if self._server.returncode is not None:
            return 0.0
        ended = (command.ended.get("seconds", 0.0) for command in self._started)
        return self._seconds + sum(ended)

    def close(self) -> None:
        """Ends the server, and what of its commands still runs."""
        for command in self._started:
            command.send_signal(signal.SIGKILL)
            command.wait()
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _ask(self, job: dict) -> dict:
        with self._asking:
            self._server.stdin.write(json.dumps(job) + "\n")
            self._server.stdin.flush()
            return self._answer()

    def _answer(self) -> dict:
        line = self._server.stdout.readline()
        assert line, "the server of commands has ended; its messages stand above"
        return json.loads(line)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines of the program."""
    made = Commands(tmp_path_factory.mktemp("commands"))
    yield made
    made.close()
