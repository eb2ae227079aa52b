"""Several processes, one a host, that run one program in step with each other.

Process 0 alone decides, draws secrets and writes files; the others learn from it with
``from_first``. What fails on one process must end all of them, since the rest would
wait for it forever: work that can fail runs in ``from_first``, ``first_goes_first`` or
``together``, and all processes reach each of these in the same order. With one process
they only do the work.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from dpdm_jax import validate
from dpdm_jax.errors import InputError, Interrupted, reason

# What an exception carries once every process has raised it.
_SHARED = "raised_by_all_processes"
_PATIENCE_SECONDS = 7 * 24 * 3600


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes; call it before the first use of a device.

    Args:
        coordinator_address: HOST:PORT at which process 0 listens; None asks the cluster
            (TPU pods, Slurm, Open MPI, Kubernetes) for all three.
        num_processes: how many there are, >= 1.
        process_id: which this is, 0 to ``num_processes - 1``.

    Raises:
        InputError: a value is missing or out of range, or they do not find together.
    """
    # It would take SIGTERM away from the training loop, which saves and stops.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator_address is None:
        if num_processes is not None or process_id is not None:
            raise InputError(
                "--num_processes or --process_id is given without "
                "--coordinator_address; allowed: all three, or --distributed."
            )
        try:
            jax.distributed.initialize()
        except (RuntimeError, ValueError) as e:
            raise InputError(
                f"--distributed finds no cluster to join ({reason(e)}); allowed: a TPU "
                "pod, Slurm, Open MPI or Kubernetes, or --coordinator_address, "
                "--num_processes and --process_id."
            ) from None
        return
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(
            f"--coordinator_address is {coordinator_address!r}; allowed: HOST:PORT."
        )
    if num_processes is None or process_id is None:
        raise InputError(
            "--coordinator_address is given without --num_processes or --process_id; "
            "allowed: all three, or --distributed."
        )
    validate.integer("--num_processes", num_processes, minimum=1)
    validate.integer("--process_id", process_id, minimum=0)
    if process_id >= num_processes:
        raise InputError(
            f"--process_id is {process_id}; allowed: 0 to {num_processes - 1}."
        )
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            # All is said; a look at the surroundings could only contradict it.
            cluster_detection_method="deactivate",
        )
    except RuntimeError as e:
        raise InputError(
            f"The {num_processes} processes do not meet at {coordinator_address} "
            f"({reason(e)}); allowed: a free port on the host of process 0 that all of "
            "them reach."
        ) from None


def is_first() -> bool:
    """Whether this is process 0, the one that decides and writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """Runs a function on process 0 and gives its result to all.

    Args:
        make: returns JSON values.

    Returns:
        What it returned.

    Raises:
        InputError: and whatever else ``make`` raised, on every process.
    """
    if jax.process_count() == 1:
        return make()
    answer, failure = None, None
    if is_first():
        try:
            answer = {"made": make()}
        except (Exception, KeyboardInterrupt) as e:
            answer, failure = {"failure": _describe(e)}, e
    _wait_for_all()
    answer = _send(0, answer)
    if "failure" in answer:
        raise _shared(failure or _restored(answer["failure"], 0))
    return answer["made"]


def first_goes_first(make: Callable[[], Any]) -> Any:
    """Runs a function on process 0, then on the others: for files that it prepares.

    Args:
        make: returns anything.

    Returns:
        What it returned on this process.

    Raises:
        InputError: and whatever else ``make`` raised on any process, on every process.
    """
    made = None
    for turn_of_first in (True, False):
        with together(patiently=True):
            if is_first() == turn_of_first:
                made = make()
    return made


@contextlib.contextmanager
def together(*, patiently: bool = False) -> Iterator[None]:
    """Runs a block on every process; if it fails on any, it fails on all.

    Blocks must not exchange anything between processes.

    Args:
        patiently: whether some may wait for others for more than minutes.

    Raises:
        InputError: and whatever else the block raised on any process; of several that
            of the lowest process, so that all say the same.
    """
    if jax.process_count() == 1:
        yield
        return
    failure: BaseException | None = None
    try:
        yield
    except (Exception, KeyboardInterrupt) as e:
        failure = e
    if patiently:
        _wait_for_all()
    failed = multihost_utils.process_allgather(np.int32(failure is not None))
    if not failed.any():
        return
    source = int(np.argmax(failed))
    described = _send(source, _describe(failure) if failure else None)
    if failure is None or source != jax.process_index():
        failure = _restored(described, source)
    raise _shared(failure)


def check_same(what: str, make: Callable[[], Any]) -> None:
    """Checks that all processes were given the same.

    Args:
        what: the name for the message, such as "The config".
        make: returns JSON values; they are compared, and not shown.

    Raises:
        InputError: on every process, if one differs from process 0.
    """
    if jax.process_count() == 1:
        return
    with together():
        text = json.dumps(make(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    expected = from_first(lambda: digest)
    with together():
        if digest != expected:
            raise InputError(
                f"{what} of process {jax.process_index()} is not that of process 0; "
                "allowed: the same on every process."
            )


def same_arrays(tree: Any) -> Any:
    """Gives the arrays of process 0 to all: pytree of arrays in, the same out."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def _wait_for_all() -> None:
    """Lets the processes meet before they exchange, which must not take long.

    Exchanges between CPUs are given up after half an hour; an evaluation, or the
    preparation of a large data set, may take longer.
    """
    import orbax.checkpoint as ocp  # not for those who only ask for ``is_first``

    meet = ocp.multihost.get_barrier_sync_fn()
    meet(key="dpdm_jax", timeout_ms=_PATIENCE_SECONDS * 1000)


def _send(source: int, value: Any) -> Any:
    """Gives JSON values of one process to all; the others' are ignored."""
    is_source = jax.process_index() == source
    text = json.dumps(value).encode() if is_source else b""
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text)), is_source))
    # Few lengths: each is compiled apart.
    room = np.zeros(-(-length // 1024) * 1024, np.uint8)
    room[: len(text)] = bytearray(text)
    sent = multihost_utils.broadcast_one_to_all(room, is_source)
    return json.loads(np.asarray(sent, np.uint8)[:length].tobytes())


def _describe(failure: BaseException) -> dict[str, Any]:
    if isinstance(failure, InputError):
        return {"input": str(failure)}
    if isinstance(failure, Interrupted):
        return {"signal": failure.signal_number}
    # What it says stays with its process: it may be anything.
    return {"other": type(failure).__name__}


def _restored(described: dict[str, Any], source: int) -> BaseException:
    if "input" in described:
        return InputError(described["input"])
    if "signal" in described:
        return Interrupted(described["signal"])
    if described["other"] == KeyboardInterrupt.__name__:
        return KeyboardInterrupt()
    return RuntimeError(
        f"process {source} failed with {described['other']}; its own output says more"
    )


def _shared(failure: BaseException) -> BaseException:
    setattr(failure, _SHARED, True)
    return failure


def is_shared(failure: BaseException) -> bool:
    """Whether all processes raised this, so that none is left waiting."""
    return not jax.distributed.is_initialized() or getattr(failure, _SHARED, False)
