"""Settings that compilers read from the environment, made before JAX starts them."""

import functools
import glob
import importlib.metadata
import importlib.util
import mmap
import os
import pathlib

# jaxlib 0.10 hands single CPU convolutions to another library by default, which makes
# the weight gradients of these networks several times slower.
_CPU_FLAGS = {"xla_cpu_experimental_ynn_fusion_type": ""}

#: Keeps the barriers of ``networks.fusion`` until fusions are made. The compilers for
#: GPU and TPU need the pass that drops them.
ONLY_CPU_FLAGS = {"xla_disable_hlo_passes": "cse_barrier_expander"}

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
    """
    tpu_is_attached = bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))
    if importlib.util.find_spec("libtpu") is not None and not tpu_is_attached:
        for variable, value in _NO_TPU.items():
            os.environ.setdefault(variable, value)
    wanted = dict(_CPU_FLAGS)
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not (
        tpu_is_attached or _has_plugins()
    ):
        wanted |= ONLY_CPU_FLAGS
    flags = os.environ.get("XLA_FLAGS", "")
    for name, value in wanted.items():
        if name not in flags and _is_known(name):
            flags = f"{flags} --{name}={value}".strip()
    os.environ["XLA_FLAGS"] = flags


def _has_plugins() -> bool:
    """Whether JAX would find another platform's plugin (CUDA, ROCm, Metal, ...)."""
    return importlib.util.find_spec("jax_plugins") is not None or bool(
        importlib.metadata.entry_points(group="jax_plugins")
    )


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
