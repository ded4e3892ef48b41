"""The collectives of a compiled program, from its text: how often each kind runs and what it sends.

The text and not cost_analysis, which counts a loop's body once and is None on the path for NVIDIA. A loop's
body counts as often as the loop turns. Of a conditional every branch counts as if it ran. Knows no model.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+)\s*\(.*\)\s*->.*\{")
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|branch_computations)=(\{[^}]*\}|%?[\w.\-]+)")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one kind of collective does in a step."""

    calls: int
    sent_bytes: float  # by one device


@dataclasses.dataclass(frozen=True)
class Instruction:
    result: str  # its shapes, as text
    operation: str
    rest: str


def collectives(hlo: str, n_devices: int) -> dict[str, Traffic]:
    """Traffic by kind, of one execution of the program whose optimised HLO this is."""
    computations, entry = parse(hlo)
    by_kind: dict[str, Traffic] = {}
    for name, times in executions(computations, entry).items():
        for instruction in computations[name]:
            if kind := kind_of(instruction.operation):
                # A TPU's reduce-scatter is an all-reduce in the text, in a fusion of this name.
                scattered = kind == "all-reduce" and name.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scattered else kind
                sent = sent_bytes(kind, instruction, n_devices, scattered)
                before = by_kind.get(kind, Traffic(0, 0.0))
                by_kind[kind] = Traffic(before.calls + times, before.sent_bytes + times * sent)
    return by_kind


def parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    """(the instructions of every computation, the entry's name)."""
    computations: dict[str, list[Instruction]] = {}
    current = entry = ""
    for line in hlo.splitlines():
        if head := COMPUTATION.match(line):
            current = head.group(1)
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (match := INSTRUCTION.match(line)):
            computations[current].append(Instruction(*match.groups()[1:]))
    return computations, entry


def executions(computations: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs; those that no collective can be in are left out."""
    times: dict[str, int] = {}

    def run(name: str, count: int) -> None:
        times[name] = times.get(name, 0) + count
        for called, turns in calls(computations, computations[name]):
            run(called, count * turns)

    run(entry, 1)
    return times


def calls(
    computations: dict[str, list[Instruction]], instructions: list[Instruction]
) -> Iterator[tuple[str, int]]:
    """(computation, times) that these instructions call; reductions' own sums are not followed."""
    for instruction in instructions:
        if kind_of(instruction.operation) or instruction.operation.startswith("reduce"):
            continue
        turns = turns_of(computations, instruction) if instruction.operation == "while" else 1
        for names in CALLED.findall(instruction.rest):
            for name in re.findall(r"[\w.\-]+", names):
                if name in computations:
                    yield name, turns


def turns_of(computations: dict[str, list[Instruction]], loop: Instruction) -> int:
    """How often a loop turns: as the compiler says, or that counts from 0 to a constant, as scans do; 1 for
    any other."""
    if known := TURNS.search(loop.rest):
        return int(known.group(1))
    limits = [
        re.match(r"(\d+)\)", instruction.rest)
        for instruction in computations[CONDITION.search(loop.rest).group(1)]
        if instruction.operation == "constant" and instruction.result.startswith("s32[]")
    ]
    return max((int(limit.group(1)) for limit in limits if limit), default=1)


def kind_of(operation: str) -> str:
    """The kind of a collective, begun or whole; empty for another operation."""
    kind = operation.removesuffix("-start")
    return kind if kind in KINDS else ""


def sent_bytes(kind: str, instruction: Instruction, n_devices: int, scattered: bool) -> float:
    """What one device sends, by the ring algorithm over groups of n: (n-1)/n of the whole, twice for an
    all-reduce; a permutation sends all it has."""
    n = group_size(instruction.rest, n_devices)
    size = result_bytes(instruction)
    share = (n - 1) / n
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter" and not scattered:
        return size * (n - 1)  # the result is one share
    return size * share * (2 if kind == "all-reduce" else 1)


def result_bytes(instruction: Instruction) -> int:
    """The bytes of the result; a begun one's, but for an all-reduce's, comes after as many operands, and
    before scalars of its own."""
    sizes = []
    for dtype, dimensions in re.findall(r"\b(\w+)\[([\d,]+)\]", instruction.result):
        if dtype in BYTES:
            sizes.append(BYTES[dtype] * math.prod(map(int, dimensions.split(","))))
    begun = instruction.operation.endswith("-start") and instruction.operation != "all-reduce-start"
    return sum(sizes[len(sizes) // 2 :] if begun else sizes)


def group_size(rest: str, n_devices: int) -> int:
    """How many devices take part in each group."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(match.group(1).split(","))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(match.group(2))
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match.group(2)))
    return n_devices
