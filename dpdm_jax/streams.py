"""Standard streams that are closed, or whose reader goes away: the work goes on."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

# What writing answers where the reader of a pipe, or the terminal, is gone.
_GONE = (errno.EPIPE, errno.EIO)


class _Stream:
    """A stream that drops what nobody can read any more, or what its letters lack."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:  # a locale without these letters
            letters = self._stream.encoding
            return self._stream.write(text.encode(letters, "replace").decode(letters))
        except OSError as e:
            self._drop(e)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as e:
            self._drop(e)

    def _drop(self, error: OSError) -> None:
        if error.errno not in _GONE:
            raise error
        handle = os.open(os.devnull, os.O_WRONLY)
        os.dup2(handle, self._stream.fileno())
        os.close(handle)
        # What it still holds goes there, and not to the interpreter's end.
        self._stream.flush()


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """Runs a program whose output need not have a reader."""
    # A file that took the number of a closed stream would get what libraries print.
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            break
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        _Stream(stream if stream is not None else os.fdopen(number, "w"))
        for number, stream in enumerate(before, start=1)
    )
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
