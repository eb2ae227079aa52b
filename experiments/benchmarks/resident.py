"""By how much the resident memory of a process rises (Linux)."""

import ctypes
import pathlib
from collections.abc import Callable


def rise(run: Callable[[], object]) -> int:
    """Bytes that the resident memory of this process rises by at most in a call."""
    # What the compiler left on the heap would be reused and hide the call's needs.
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = status_bytes("VmRSS")
    run()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """What /proc/self/status says of this process, such as VmRSS or RssAnon."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}.")
