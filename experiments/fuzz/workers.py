"""Processes that read damaged files: they may crash, hang or run out of memory."""

import multiprocessing
import pathlib
import resource
import signal
from multiprocessing.connection import Connection

from experiments.fuzz import cases

_MEMORY = 2**30  # bytes that a file may take, beyond what a process has before it
#: What bombs unpack to: more than there is.
BOMB_SIZE = 2 * _MEMORY


class Worker:
    """A process that reads one file after another, and is replaced if one kills it."""

    def __init__(
        self, undamaged: pathlib.Path, folder: pathlib.Path, seed: int, timeout: float
    ):
        """Prepares; the process starts with the first file.

        Args:
            undamaged: see ``cases.Cases``.
            folder: new, for the files of this worker.
            seed: of all choices.
            timeout: seconds that a file may take.
        """
        self._undamaged, self._folder = undamaged, folder
        self._seed, self._timeout = seed, timeout
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._lives = 0

    @property
    def pid(self) -> int:
        """Number of the process, once a file was read."""
        return self._process.pid

    def run(self, number: int) -> cases.Result:
        """Has a file made and read; see ``Cases.run``."""
        if self._process is None:
            self._start()
        try:
            self._connection.send(number)
            if self._connection.poll(self._timeout):
                return self._connection.recv()
            died = f"took more than {self._timeout:g} s"
        except (EOFError, ConnectionError):
            self._process.join()
            died = f"ended its process: {_status(self._process.exitcode)}"
        self.close()
        return cases.Result(number, "?", "?", cases.FAILED, died)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None

    def _start(self) -> None:
        # A fresh interpreter: JAX's threads would not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._lives += 1
        folder = self._folder.with_name(f"{self._folder.name}_{self._lives}")
        self._process = context.Process(
            target=_serve, args=(theirs, self._undamaged, folder, self._seed)
        )
        self._process.start()
        theirs.close()  # else its end would go unnoticed
        self._connection.recv()  # ready


def _serve(
    connection: Connection, undamaged: pathlib.Path, folder: pathlib.Path, seed: int
) -> None:
    made = cases.Cases(undamaged, folder, seed, BOMB_SIZE)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send("ready")
    while True:
        connection.send(made.run(connection.recv()))


def _status(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return signal.Signals(-exitcode).name
    return f"status {exitcode}"
