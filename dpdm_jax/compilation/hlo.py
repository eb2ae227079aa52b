"""Figures read off the text of a compiled program (XLA's HLO)."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# They name, regroup or wait for what another instruction moved.
_FREE = frozenset(
    {
        "after-all",
        "bitcast",
        "constant",
        "copy-done",
        "get-tuple-element",
        "parameter",
        "partition-id",
        "replica-id",
        "slice-done",
        "tuple",
    }
)
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%([\w.\-]+) \(.*\) -> .*\{")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a program.

    Attributes:
        bytes: as the program's shapes have it.
        padded_bytes: with the padding of the tiles that its layout asks for.
        in_main_memory: not in the memory of the chip itself.
    """

    bytes: int
    padded_bytes: int
    in_main_memory: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: unique in the computation.
        kind: opcode, such as "fusion".
        results: the arrays that it makes.
        operands: names of instructions.
        rest: the line after the opcode.
    """

    name: str
    kind: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str


class Program:
    """The computations of a compiled program.

    Args:
        text: ``jax.stages.Compiled.as_text()``.
    """

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if header := _COMPUTATION.fullmatch(line.rstrip()):
                current = self._computations.setdefault(header.group(2), {})
                if header.group(1):
                    self._entry = header.group(2)
            elif current is not None and (match := _INSTRUCTION.match(line)):
                name, shape, kind, rest = match.groups()
                arguments = rest.partition(")")[0]
                current[name] = Instruction(
                    name,
                    kind,
                    tuple(_arrays(shape)),
                    tuple(_OPERAND.findall(arguments)),
                    rest,
                )

    def collectives(self) -> dict[str, dict[str, int]]:
        """Exchanges between devices, each instruction once however often a loop runs.

        Returns:
            Kind -> "count" and "bytes", what a device puts in, padding not counted.
        """
        found: dict[str, dict[str, int]] = {}
        for computation in self._computations.values():
            for instruction in computation.values():
                kind = instruction.kind.removesuffix("-start")
                if kind not in _COLLECTIVES:
                    continue
                entry = found.setdefault(kind, {"count": 0, "bytes": 0})
                entry["count"] += 1
                entry["bytes"] += sum(
                    array.bytes
                    for operand in instruction.operands
                    for array in computation[operand].results
                )
        return found

    def num_loops(self) -> int:
        """How many while loops there are; compilers' flops count a body once."""
        return sum(
            instruction.kind == "while"
            for computation in self._computations.values()
            for instruction in computation.values()
        )

    def _trips(self, loop: Instruction) -> int:
        """How often a loop runs; 1 where its condition does not tell."""
        if known := _TRIPS.search(loop.rest):
            return int(known.group(1))
        # JAX's scans count from 0 by ones up to a constant.
        condition = self._computations[_called(loop, "condition")]
        *_, test = condition.values()
        if test.kind == "compare" and "direction=LT" in test.rest:
            operands = [condition[name] for name in test.operands]
            limits = [i.rest for i in operands if i.kind == "constant"]
            if len(limits) == 1:
                return int(limits[0].partition(")")[0])
        return 1

    def main_memory_bytes(self) -> int:
        """Bytes that instructions read from and write to a device's main memory.

        Each fused operation reads its operands and writes its results once, tile
        padding included; what the compiler placed in on-chip memory is free. Of an
        operand that it only takes slices of, it reads the slices, and of a result that
        is an operand with a slice changed, it writes the slice. Loop bodies count as
        often as they run where that is known, else once.
        """

        @functools.cache
        def of_computation(name: str) -> int:
            computation = self._computations[name]
            return sum(of_instruction(computation, i) for i in computation.values())

        def of_instruction(
            computation: dict[str, Instruction], instruction: Instruction
        ) -> int:
            match instruction.kind:
                case kind if kind in _FREE or kind.endswith("-done"):
                    return 0
                case "while":
                    body = of_computation(_called(instruction, "body"))
                    condition = of_computation(_called(instruction, "condition"))
                    return self._trips(instruction) * (body + condition)
                case "call":
                    return of_computation(_called(instruction, "to_apply"))
                case "conditional":
                    return max(map(of_computation, _branches(instruction)))
                case "copy-start":
                    # The result lists both ends of the copy.
                    return _in_main_memory(instruction.results[:2])
                case "slice-start":
                    # Source, slice, context: as much is read as is written.
                    piece = instruction.results[-2]
                    return piece.padded_bytes + _in_main_memory([piece])
                case _:
                    operands = [
                        computation[name].results if name in computation else ()
                        for name in instruction.operands
                    ]
                    fused = self._fused(instruction, operands)
                    return _moved(operands, instruction.results, fused)

        return of_computation(self._entry)

    def _fused(
        self, instruction: Instruction, operands: Sequence[tuple[Array, ...]]
    ) -> dict[str, Instruction]:
        """The computation of a fusion; of another instruction one with it alone."""
        if instruction.kind == "fusion":
            found = self._computations.get(_called(instruction, "calls"))
            if found is not None:
                return found
        named = zip(instruction.operands, operands, strict=True)
        parameters = {
            name: Instruction(name, "parameter", arrays, (), f"{index})")
            for index, (name, arrays) in enumerate(named)
        }
        return parameters | {instruction.name: instruction}


def _moved(
    operands: Sequence[tuple[Array, ...]],
    results: Sequence[Array],
    fused: dict[str, Instruction],
) -> int:
    """Bytes that a fused computation reads from and writes to main memory.

    Args:
        operands: arrays of each.
        results: what it makes.
        fused: its instructions, the last one the root.
    """

    def origin(name: str) -> str:
        while name in fused and fused[name].kind == "bitcast":
            (name,) = fused[name].operands
        return name

    *_, root = fused.values()
    made = [origin(x) for x in (root.operands if root.kind == "tuple" else [root.name])]
    # What is put into an operand in place, by the name of the whole.
    changed = {
        name: fused[fused[name].operands[1]].results
        for name in made
        if name in fused and fused[name].kind == "dynamic-update-slice"
    }

    def read(parameter: str) -> float:
        total = 0
        for user in fused.values():
            if user.kind == "bitcast" or parameter not in map(origin, user.operands):
                continue
            first, *others = map(origin, user.operands)
            if first != parameter or parameter in others:
                return math.inf
            if user.kind == "dynamic-slice":
                total += sum(array.padded_bytes for array in user.results)
            elif user.name not in changed:
                return math.inf
        return total

    moved = 0
    for instruction in fused.values():
        if instruction.kind == "parameter":
            index = int(instruction.rest.partition(")")[0])
            whole = _in_main_memory(operands[index])
            moved += int(min(whole, read(instruction.name)))
    if len(made) != len(results):
        return moved + _in_main_memory(results)
    for name, array in zip(made, results, strict=True):
        whole = _in_main_memory([array])
        part = sum(piece.padded_bytes for piece in changed.get(name, (array,)))
        moved += min(whole, part)
    return moved


def _in_main_memory(arrays: Iterable[Array]) -> int:
    return sum(array.padded_bytes for array in arrays if array.in_main_memory)


def _called(instruction: Instruction, role: str) -> str:
    match = re.search(rf"\b{role}=%?([\w.\-]+)", instruction.rest)
    assert match is not None, instruction
    return match.group(1)


def _branches(instruction: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    if listed:
        return _OPERAND.findall(listed.group(1))
    return [_called(instruction, f"{side}_computation") for side in ("true", "false")]


def _arrays(shape: str) -> Iterable[Array]:
    """The arrays in a (tuple) shape such as ``f32[8,32]{1,0:T(8,128)S(1)}``."""
    for dtype, dimensions, layout in _ARRAY.findall(shape):
        sides = [int(side) for side in dimensions.split(",") if side]
        bits = _bits(dtype)
        order, _, properties = layout.partition(":")
        padded = list(sides)
        tile = re.search(r"T\(([0-9,]+)\)", properties)
        if tile and order:
            minor_to_major = [int(axis) for axis in order.split(",")]
            tile_sides = [int(side) for side in tile.group(1).split(",")]
            for axis, side in zip(minor_to_major, reversed(tile_sides), strict=False):
                padded[axis] = -(-padded[axis] // side) * side
        yield Array(
            bytes=math.prod(sides) * bits // 8,
            padded_bytes=math.prod(padded) * bits // 8,
            in_main_memory=re.search(r"S\([1-9]", properties) is None,
        )


def _bits(dtype: str) -> int:
    """Bits of an element: of f32, bf16, f8e4m3fn, u4 by their first number."""
    width = re.search("[0-9]+", dtype)
    if width:
        return int(width.group())
    return 8 if dtype == "pred" else 0  # tokens carry no data
