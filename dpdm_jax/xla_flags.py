"""Compiler settings that the CPU wants, made before JAX starts its backends."""

import functools
import importlib.util
import mmap
import os
import pathlib

# jaxlib 0.10 hands single CPU convolutions to another library by default, which makes
# the weight gradients of these networks several times slower.
_CPU_FLAGS = {"xla_cpu_experimental_ynn_fusion_type": ""}


def configure() -> None:
    """Adds the flags to XLA_FLAGS; call it before the first use of a device.

    A flag that the user has set stays as it is. One that the installed jaxlib does not
    know is left out, since XLA aborts the process over an unknown flag.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    for name, value in _CPU_FLAGS.items():
        if name not in flags and _is_known(name):
            flags = f"{flags} --{name}={value}".strip()
    os.environ["XLA_FLAGS"] = flags


@functools.cache
def _is_known(flag: str) -> bool:
    """Whether jaxlib's binary mentions the flag; there is no other way to ask it."""
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or spec.origin is None:
        return False
    for library in pathlib.Path(spec.origin).parent.glob("*.so"):
        if library.stat().st_size == 0:
            continue
        with (
            open(library, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            if content.find(flag.encode()) >= 0:
                return True
    return False
