"""What a chain of ladder operations does: its outputs on fixed inputs, the probes, and whether those differ.

Two chains with the same `behaviour` agree on all probes. Chooses no problems and no splits.
"""

from __future__ import annotations

import collections
import functools
import itertools
import random
from collections.abc import Sequence

from o1jax.parallel.seeds import fold_seed, stable_hash
from o1jax.problems.ladder.composition import sample_value
from o1jax.problems.ladder.operations import OPERATIONS, Kind, Operation, Value

Steps = tuple[tuple[Operation, int], ...]
PROBES = 200  # inputs: two problems that agree on all of them count as one
LARGEST_INT, LONGEST_LIST, LONGEST_TEXT = 9_999, 16, 32  # values that a nano model can still write
LEAST_CHANGED = 0.15  # share of probes on which an operation must matter
ALL_STEPS = [(op, k) for op in OPERATIONS.values() for k in op.constants or (0,)]
MOST_COMMON = 0.4  # largest share of probes that may give one output
LEAST_DISTINCT = 6  # outputs: with fewer a guess passes the one or two tests of a training problem


def run_all(steps: Steps, values: Sequence[Value]) -> list[Value] | None:
    """The values after all operations; None if one on the way grows past the bounds above."""
    for op, k in steps:
        values = [op.apply(value, k) for value in values]
        if not _within_bounds(op.gives, values):
            return None
    return list(values)


def _within_bounds(kind: Kind, values: list[Value]) -> bool:
    if kind == "int":
        return max(map(abs, values)) <= LARGEST_INT
    if kind == "text":
        return max(map(len, values)) <= LONGEST_TEXT
    return max(map(len, values)) <= LONGEST_LIST and all(
        -LARGEST_INT <= min(value) and max(value) <= LARGEST_INT for value in values if value
    )


@functools.cache
def probes(kind: Kind) -> tuple[Value, ...]:
    """The fixed inputs on which chains are compared."""
    rng = random.Random(fold_seed(0, "ladder probes", kind))
    return tuple(sample_value(kind, rng) for _ in range(PROBES))


@functools.lru_cache(maxsize=1 << 9)
def printed_outputs(steps: Steps) -> tuple[str, ...] | None:
    """What the chain prints on each probe; None if a value grows past the bounds."""
    outputs = run_all(steps, probes(steps[0][0].takes))
    if outputs is not None and steps[-1][0].gives == "list":
        outputs = [" ".join(map(str, output)) for output in outputs]
    return None if outputs is None else tuple(map(str, outputs))


@functools.lru_cache(maxsize=1 << 14)
def behaviour(steps: Steps) -> str | None:
    """A text that is equal for two chains if they agree on every probe; None past the bounds."""
    outputs = printed_outputs(steps)
    return None if outputs is None else f"{steps[0][0].takes}:{stable_hash(chr(10).join(outputs)):016x}"


@functools.cache
def single_behaviours() -> frozenset[str | None]:
    """The behaviours of all single operations."""
    return frozenset(behaviour((step,)) for step in ALL_STEPS)


@functools.cache
def pair_names() -> dict[str, frozenset[str]]:
    """For each behaviour of two operations, the compositions (names joined by -) that have it."""
    found: dict[str | None, set[str]] = collections.defaultdict(set)
    for first, second in itertools.product(ALL_STEPS, repeat=2):
        if first[0] is not second[0] and first[0].gives == second[0].takes:
            found[behaviour((first, second))].add(f"{first[0].name}-{second[0].name}")
    return {key: frozenset(names) for key, names in found.items() if key is not None}


def without_one(steps: Steps) -> list[Steps]:
    """The chains with one operation left out, where the kinds still fit and something remains."""
    kept = [steps[:i] + steps[i + 1 :] for i, (op, _) in enumerate(steps) if op.takes == op.gives]
    return [chain for chain in kept if chain]


def is_redundant(steps: Steps) -> bool:
    """Whether leaving out one operation changes (nearly) nothing."""
    outputs = printed_outputs(steps)
    others = map(printed_outputs, without_one(steps)) if outputs is not None else ()
    return any(
        sum(a != b for a, b in zip(outputs, other, strict=True)) < LEAST_CHANGED * PROBES
        for other in others
        if other is not None
    )


def is_degenerate(outputs: Sequence[str]) -> bool:
    """Whether one output, for example the empty one, is too common, or too few differ."""
    counts = collections.Counter(outputs)
    return len(counts) < LEAST_DISTINCT or counts.most_common(1)[0][1] > MOST_COMMON * len(outputs)


def wrong_variants(steps: Steps) -> list[Steps]:
    """Chains that a good test tells from this one: an operation left out, or another constant."""
    variants = without_one(steps)
    for i, (op, k) in enumerate(steps):
        variants += [(*steps[:i], (op, c), *steps[i + 1 :]) for c in (k - 1, k + 1) if c in op.constants]
    return variants
