"""Which examples share which row of which batch: a pure function of (lengths, seed, epoch).

Knows lengths, not tokens. The same plan on every machine and for any number of processes (D4).
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError

WINDOW = 4096  # examples packed together: large enough to pack well, small enough to stay shuffled


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rows of an epoch."""

    rows: tuple[tuple[int, ...], ...]  # the indices of the examples in each global row, in order
    rows_per_batch: int  # of the global batch; empty rows fill the last one

    @property
    def n_batches(self) -> int:
        return len(self.rows) // self.rows_per_batch

    def batch(self, index: int) -> tuple[tuple[int, ...], ...]:
        """The rows of one global batch."""
        return self.rows[index * self.rows_per_batch : (index + 1) * self.rows_per_batch]


def plan(lengths: Sequence[int], seed: int, epoch: int, row_length: int, rows_per_batch: int) -> Plan:
    """Packs every example once: best fit, longest first, inside shuffled windows; rows shuffled after.

    InputError if an example is empty or longer than a row, or there is none.
    """
    if not lengths:
        raise InputError("no examples to pack into batches; give at least one")
    if rows_per_batch < 1:
        raise InputError(f"rows_per_batch is {rows_per_batch}; it must be at least 1")
    for i, length in enumerate(lengths):
        if not 0 < length <= row_length:
            raise InputError(f"example {i} has {length} tokens; a row takes 1 to {row_length}")
    # RandomState, not default_rng: numpy promises that this stream never changes.
    random = np.random.RandomState(fold_seed(seed, "plan", epoch))
    order = random.permutation(len(lengths)).tolist()
    rows = []
    for start in range(0, len(order), WINDOW):
        rows += _pack(order[start : start + WINDOW], lengths, row_length)
    # Packing sorts by length, so the rows of a window begin with long examples: shuffled again.
    rows = [rows[r] for r in random.permutation(len(rows))]
    rows += [()] * (-len(rows) % rows_per_batch)
    return Plan(tuple(rows), rows_per_batch)


def _pack(window: list[int], lengths: Sequence[int], row_length: int) -> list[tuple[int, ...]]:
    """Best-fit decreasing: each example goes to the fullest row that still takes it."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free tokens, row), sorted
    for example in sorted(window, key=lambda i: -lengths[i]):
        at = bisect.bisect_left(free, (lengths[example], -1))
        left, row = free.pop(at) if at < len(free) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(example)
        bisect.insort(free, (left - lengths[example], row))
    return [tuple(row) for row in rows]
