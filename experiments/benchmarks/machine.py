"""What a figure depends on beside the code: machine, its speed just now, versions."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

import numpy as np

_PACKAGES = ("jax", "jaxlib", "flax", "jax-privacy", "torch", "opacus", "numpy")


def matrix_product_rate(size: int = 1024, repeats: int = 5) -> float:
    """Billions of operations a second in NumPy's float32 matrix product, best of some.

    Shared machines drift: a figure is comparable with another one only as far as this
    rate is.
    """
    x = np.ones((size, size), np.float32)
    x @ x
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        x @ x
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def state() -> dict[str, float]:
    """How fast and how busy the machine is just now.

    PyTorch's threads wait for one another by spinning, so that a second busy process
    slows it down out of proportion: figures want a load near 0 at the start.
    """
    return {
        "load_average": os.getloadavg()[0],
        "matrix_product_gflops": matrix_product_rate(),
    }


class Recorder:
    """Notes how long a run takes, from which commit, and on what machine."""

    def __init__(self) -> None:
        """Starts the clock; the machine should be as busy as during the run."""
        # Now: the tree may have moved on before the run ends.
        self._commit = commit()
        self._at_start = state()
        self._started = datetime.datetime.now(datetime.UTC)
        self._start = time.perf_counter()

    def record(self) -> dict[str, Any]:
        """What a committed result says of its origin, as JSON values."""
        seconds = time.perf_counter() - self._start
        states = {"at_start": self._at_start, "at_end": state()}
        return {
            "seconds": round(seconds, 1),
            "started": self._started.isoformat(timespec="seconds"),
            "commit": self._commit,
            "machine": describe() | states,
        }


def describe() -> dict:
    """Processor, usable cores and versions of what is installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
    }


def commit() -> str:
    """The commit of this source tree, "-dirty" if edited; "unknown" outside Git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _cpu_model() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
