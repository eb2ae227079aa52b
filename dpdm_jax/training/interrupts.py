"""Requests to stop (Ctrl-C, or a scheduler's SIGTERM), taken at a moment that suits."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from dpdm_jax.errors import Interrupted


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Catches SIGINT and SIGTERM until someone asks; a second one acts at once.

    Files that are being written meanwhile are written to their end.

    Yields:
        A function that raises ``Interrupted`` if a signal has come.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise Interrupted(received[0])

    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread, which has its own ways then.
        yield check
        return

    def remember(number: int, frame: object) -> None:
        del frame
        received.append(number)
        signal.signal(number, previous[number])

    previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
    for caught in (signal.SIGINT, signal.SIGTERM):
        previous[caught] = signal.signal(caught, remember)
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
