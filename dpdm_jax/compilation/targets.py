"""Hardware to compile for: TPU slices by name, or the CPU of this machine."""

import dataclasses
import importlib.util
import math
import re

import jax

from dpdm_jax import xla_flags
from dpdm_jax.errors import InputError

_NAME = re.compile(r"([a-z0-9]+):([1-9][0-9]*(?:x[1-9][0-9]*){1,2})")


@dataclasses.dataclass(frozen=True)
class Chip:
    """Public figures of one chip.

    Attributes:
        flops_per_second: peak of bfloat16 matrix products. Float32 ones run on the same
            units at JAX's default precision on TPU, which rounds their operands.
        hbm_bytes_per_second: bandwidth of the memory.
        hbm_bytes: size of the memory.
    """

    flops_per_second: float
    hbm_bytes_per_second: float
    hbm_bytes: float


CHIP_SOURCE = "Google Cloud TPU documentation, pages v4, v5e, v5p and v6e"
CHIPS = {
    "v4": Chip(275e12, 1200e9, 32 * 2**30),
    "v5e": Chip(197e12, 819e9, 16e9),
    "v5p": Chip(459e12, 2765e9, 95e9),
    "v6e": Chip(918e12, 1638e9, 32e9),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices that programs are compiled for.

    Attributes:
        name: as the user gave it.
        devices: of the slice or of this machine.
        num_chips: of the slice; as many as devices for "cpu".
        device_limits: figures of one device, which on some TPUs is half a chip; None
            where they are not known.
    """

    name: str
    devices: tuple[jax.Device, ...]
    num_chips: int
    device_limits: Chip | None


def find_target(name: str) -> Target:
    """Finds the devices of a name.

    Args:
        name: "cpu", or GENERATION:TOPOLOGY with the numbers of chips along each axis,
            as v5e:2x4 or v4:2x2x2.

    Raises:
        InputError: the name is unknown to libtpu, or libtpu is missing.
    """
    if name == "cpu":
        devices = tuple(jax.devices("cpu"))
        return Target(name, devices, len(devices), None)
    match = _NAME.fullmatch(name)
    # libtpu aborts the process over some malformed names.
    if match is None:
        raise _unknown(name, "that is not GENERATION:CHIPSxCHIPS")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--compile-for is {name!r}, which needs libtpu (pip install "
            "'dpdm_jax[tpu]'); allowed without it: cpu."
        )
    generation, layout = match.groups()
    sides = [int(side) for side in layout.split("x")]
    num_chips = math.prod(sides)
    devices = _tpu_devices(name, single_chip=num_chips == 1)
    limits = CHIPS.get(generation)
    if limits is not None:
        share = num_chips / len(devices)
        limits = Chip(*(share * figure for figure in dataclasses.astuple(limits)))
    return Target(name, devices, num_chips, limits)


def _tpu_devices(name: str, *, single_chip: bool) -> tuple[jax.Device, ...]:
    from jax.experimental import topologies

    xla_flags.configure()
    # The default is a host of four chips.
    options = {"chips_per_host_bounds": [1, 1, 1]} if single_chip else {}
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        )
    except jax.errors.JaxRuntimeError as e:
        raise _unknown(name, str(e).splitlines()[0]) from None
    return tuple(topology.devices)


def _unknown(name: str, reason: str) -> InputError:
    reason = reason.removeprefix("INVALID_ARGUMENT: ").rstrip(".")
    return InputError(
        f"--compile-for is {name!r} ({reason}); allowed: cpu, or a TPU slice as libtpu "
        f"names it, such as v5e:2x4 or v4:2x2x2 (known chips: {', '.join(CHIPS)})."
    )
