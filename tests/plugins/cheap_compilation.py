"""Makes JAX compile for a CPU as cheaply as it can where optimizations are off.

Most of the suite's time is compilation of programs that run once or twice. The older
way of making kernels takes half of the time of the newer one, where jaxlib has both.
What JAX makes anew for each program before it compiles, the tables of all operations,
is a fifth of the time of a small one, and is kept.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import jaxlib.version

from dpdm_jax import xla_flags

_FLAGS: dict[str, bool | int] = {"xla_cpu_parallel_codegen_split_count": 1}
# Later versions have one way alone, and still mention the flag.
if jaxlib.version.__version_info__ < (0, 11):
    _FLAGS["xla_cpu_use_fusion_emitters"] = False


def xla_flags_of_children() -> str:
    """The same as a value of ``XLA_FLAGS``, for processes that a test starts."""
    return " ".join(
        f"--{name}={str(value).lower()}"
        for name, value in _FLAGS.items()
        if xla_flags.is_known(name)
    )


def install() -> None:
    """Changes what JAX tells its compiler, from now on, in this process.

    There is no public way to do so for every program and not once for a process; with a
    JAX that has no such places inside, tests only take longer.
    """
    try:
        from jax._src import compiler
        from jax._src.interpreters import mlir

        options_of, make_context = compiler.get_compile_options, mlir.make_ir_context
    except (ImportError, AttributeError):
        return

    @functools.wraps(options_of)
    def cheap_options_of(*args: Any, **kwargs: Any) -> Any:
        options = options_of(*args, **kwargs)
        settings = options.executable_build_options.debug_options
        if settings.xla_backend_optimization_level == 0:
            options.env_option_overrides += [
                flag for flag in _FLAGS.items() if xla_flags.is_known(flag[0])
            ]
        return options

    compiler.get_compile_options = cheap_options_of
    mlir.make_ir_context = _once_a_thread(make_context)


def _once_a_thread(make: Callable[[], Any]) -> Callable[[], Any]:
    """Makes what threads must not share."""
    made = threading.local()

    def get() -> Any:
        if not hasattr(made, "context"):
            made.context = make()
        return made.context

    return get
