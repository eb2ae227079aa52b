"""Settings that compilers read from the environment, made before JAX starts them."""

import functools
import glob
import importlib.util
import mmap
import os
import pathlib
import re

from dpdm_jax.errors import InputError

# jaxlib 0.10 hands single CPU convolutions to another library by default, which makes
# the weight gradients of these networks several times slower.
_CPU_FLAGS = {"xla_cpu_experimental_ynn_fusion_type": ""}

# The compiler pass that drops optimization barriers. Newer CPU compilers cannot do
# without it, and say so by ending the process.
_BARRIERS = "cse_barrier_expander"

# Seconds of compiling from which JAX keeps a program, where the user has given it a
# folder for them. Its own is 1, and a run has some of half a second.
_KEPT_FROM = ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# libtpu also compiles on machines without a TPU. JAX loads it there at every start, and
# it would ask a cloud for its place in a slice, and complain on standard error.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    # Its lock is there to share chips.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def configure() -> None:
    """Sets what is unset in the environment; call it before the first use of a device.

    What the user has set stays as it is. A flag that the installed jaxlib does not know
    is left out, since XLA aborts the process over an unknown flag.

    Raises:
        InputError: the user's flags would have XLA abort the process later.
    """
    tpu_is_attached = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    if importlib.util.find_spec("libtpu") is not None and not tpu_is_attached:
        for variable, value in _NO_TPU.items():
            os.environ.setdefault(variable, value)
    os.environ.setdefault(*_KEPT_FROM)
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and not flags.startswith("-"):
        return  # the name of a file that XLA reads flags from
    _check(flags)
    for name, value in _CPU_FLAGS.items():
        if name not in flags and is_known(name):
            flags = f"{flags} --{name}={value}".strip()
    os.environ["XLA_FLAGS"] = flags


def _check(flags: str) -> None:
    # If jaxlib mentions this one, it is where flags are looked for.
    if is_known("xla_force_host_platform_device_count"):
        for name in re.findall(r"(?:^|\s)--?(xla_\w+)", flags):
            if not is_known(name):
                raise InputError(
                    f"XLA_FLAGS has --{name}, at which this version of jaxlib would "
                    "abort; allowed: flags that it knows."
                )
    for passes in re.findall(r"-xla_disable_hlo_passes=(\S*)", flags):
        if _BARRIERS in passes.split(","):
            raise InputError(
                f"XLA_FLAGS has --xla_disable_hlo_passes={passes}; allowed: other "
                f"passes than {_BARRIERS}, without which XLA's CPU compiler aborts on "
                "rematerialised networks."
            )


@functools.cache
def is_known(flag: str) -> bool:
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
