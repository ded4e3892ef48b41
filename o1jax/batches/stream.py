"""Global batches by one integer, the step, running over epochs; a process assembles only its rows.

Nothing here is state that a checkpoint would have to hold: the step is the data position (D4). Knows no
devices. There is no prefetch thread: a batch is assembled in well under a millisecond while the device, to
which steps are dispatched ahead, is busy with the step before.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from o1jax.batches.encode import Example
from o1jax.parallel.seeds import fold_seed
from o1jax.records import MOST_SEGMENTS, InputError

WINDOW = 4096  # examples packed together: large enough to pack well, small enough to stay shuffled

Batch = dict[str, np.ndarray]
Rows = tuple[tuple[int, ...], ...]  # the indices of the examples in each row of a global batch, in order


@dataclasses.dataclass(frozen=True)
class Rotation:
    """The examples from `first` on take turns: every epoch has the next `count` of them, all of them in an
    order of its own before one comes again. Those before `first` are in every epoch."""

    first: int
    count: int

    def chosen(self, n: int, seed: int, epoch: int) -> list[int]:
        """The indices of the epoch's examples, of `n` in all."""
        rotated = n - self.first
        passes, at = divmod(epoch * self.count, rotated)
        order: list[int] = []
        while len(order) < at + self.count:
            random = np.random.RandomState(fold_seed(seed, "rotation", passes))
            order += (self.first + random.permutation(rotated)).tolist()
            passes += 1
        return [*range(self.first), *order[at : at + self.count]]


class Batches:
    """The packed batches of some examples: `at(step)` is a pure function of (examples, seed, step). With a
    `rotation` some examples are not in every epoch."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        row_length: int,
        rows_per_batch: int,
        seed: int,
        rotation: Rotation | None = None,
    ):
        for example in examples:
            if len(example.token_ids) > row_length:
                raise InputError(
                    f"example {example.id!r} has {len(example.token_ids)} tokens, more than a row's "
                    f"{row_length}; raise row_length, or drop long examples with keep_short"
                )
            if len(example.parts) > MOST_SEGMENTS:
                raise InputError(
                    f"example {example.id!r} has {len(example.parts)} parts, and a row takes {MOST_SEGMENTS}"
                )
        kinds = {tuple(sorted(example.columns)) for example in examples}
        if len(kinds) > 1:
            raise InputError(f"examples of {len(kinds)} kinds, with columns {sorted(kinds)}; wanted one")
        if rotation and not (0 <= rotation.first < len(examples) and rotation.count > 0):
            raise InputError(f"{rotation} of {len(examples)} examples; wanted some that take turns")
        self.row_length, self.rows_per_batch, self.seed = row_length, rows_per_batch, seed
        self.rotation = rotation
        self.ids = tuple(example.id for example in examples)
        self._tokens = [np.asarray(example.token_ids, np.int32) for example in examples]
        self._weights = [np.asarray(example.weights, np.float32) for example in examples]
        self._parts = [example.parts or (len(example.token_ids),) for example in examples]
        # Segments are numbered as if every example had so many: the first of a pair's sides has an odd one.
        self._most_parts = max(map(len, self._parts), default=1)
        self._columns = {
            name: [np.asarray(example.columns[name], np.float32) for example in examples]
            for name in (sorted(examples[0].columns) if examples else ())
        }
        self._starts = [0]  # the first step of every epoch seen so far, and of the one after
        self._plans: dict[int, list[Rows]] = {}  # of the latest epoch only

    def plan(self, epoch: int) -> list[Rows]:
        """The batches of one epoch."""
        if epoch not in self._plans:
            n = len(self._tokens)
            chosen = self.rotation.chosen(n, self.seed, epoch) if self.rotation else list(range(n))
            lengths = [len(self._tokens[i]) for i in chosen]
            segments = [len(self._parts[i]) for i in chosen]
            planned = plan(lengths, self.seed, epoch, self.row_length, self.rows_per_batch, segments)
            rows = [tuple(tuple(chosen[i] for i in row) for row in batch) for batch in planned]
            self._plans = {epoch: rows}
        return self._plans[epoch]

    def rows(self, step: int) -> Rows:
        """The example indices in every row of the global batch at `step`."""
        while self._starts[-1] <= step:
            self._starts.append(self._starts[-1] + len(self.plan(len(self._starts) - 1)))
        epoch = next(e for e in reversed(range(len(self._starts))) if self._starts[e] <= step)
        return self.plan(epoch)[step - self._starts[epoch]]

    def at(self, step: int, rows: Sequence[int] | None = None) -> Batch:
        """The global batch at `step`, or some of its rows (a process's share)."""
        return self.assemble(self.rows(step), rows)

    def epoch(self, epoch: int = 0, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """Every example once: what evaluation reads."""
        for planned in self.plan(epoch):
            yield self.assemble(planned, rows)

    def ids_at(self, step: int) -> list[str]:
        """The ids of all examples in the global batch at `step`, to name a bad one."""
        return [self.ids[i] for row in self.rows(step) for i in row]

    def tokens_at(self, step: int) -> int:
        """The tokens in the global batch at `step`, padding not counted."""
        return sum(len(self._tokens[i]) for row in self.rows(step) for i in row)

    def digest(self) -> str:
        """A hash of everything that decides the batches."""
        hashed = hashlib.blake2b(digest_size=16)
        # Without a rotation the hash is what it was before there were any: checkpoints go on being resumed.
        decisive = (self.row_length, self.rows_per_batch, self.seed, self.ids)
        decisive += (dataclasses.astuple(self.rotation),) if self.rotation else ()
        shortest = sorted(length for parts in self._parts for length in parts)[: MOST_SEGMENTS + 1]
        if len(shortest) > MOST_SEGMENTS and sum(shortest) <= self.row_length:  # a row would have taken more
            decisive += (MOST_SEGMENTS,)
        hashed.update(repr(decisive).encode())
        for tokens, weights in zip(self._tokens, self._weights, strict=True):
            hashed.update(len(tokens).to_bytes(8) + tokens.tobytes() + weights.tobytes())
        hashed.update(repr(self._parts).encode())
        for name, values in self._columns.items():
            hashed.update(name.encode() + b"".join(value.tobytes() for value in values))
        return hashed.hexdigest()

    def assemble(self, planned: Rows, rows: Sequence[int] | None = None) -> Batch:
        """Rows of example indices, or some of them -> arrays [B, T]. tokens, targets (the next token of the
        same part), positions (from 0 in every part), segment_ids (from 1, one a part; 0 is padding), weights
        (float32, of the targets), example_id (-1 is padding) and the examples' columns."""
        chosen = planned if rows is None else [planned[row] for row in rows]
        shape_BT = len(chosen), self.row_length
        batch = {
            "tokens_BT": np.zeros(shape_BT, np.int32),
            "targets_BT": np.zeros(shape_BT, np.int32),
            "positions_BT": np.zeros(shape_BT, np.int32),
            "segment_ids_BT": np.zeros(shape_BT, np.int32),
            "weights_BT": np.zeros(shape_BT, np.float32),
            "example_id_BT": np.full(shape_BT, -1, np.int32),
            **{f"{name}_BT": np.zeros(shape_BT, np.float32) for name in self._columns},
        }
        for row, examples in enumerate(chosen):
            start = 0
            for number, example in enumerate(examples):
                start = self._write(batch, row, start, number, example)
        return batch

    def _write(self, batch: Batch, row: int, start: int, number: int, example: int) -> int:
        """Writes the example that is `number`-th in its row, each part as a segment, of which the last
        token has no target. Returns where the next example starts."""
        tokens, weights, parts = self._tokens[example], self._weights[example], self._parts[example]
        end = start + len(tokens)
        batch["tokens_BT"][row, start:end] = tokens
        batch["targets_BT"][row, start : end - 1] = tokens[1:]
        batch["weights_BT"][row, start : end - 1] = weights[1:]
        batch["example_id_BT"][row, start:end] = example
        for name, values in self._columns.items():
            batch[f"{name}_BT"][row, start:end] = values[example]
        for segment, length in enumerate(parts, start=1 + number * self._most_parts):
            last = start + length - 1
            batch["positions_BT"][row, start : last + 1] = np.arange(length)
            batch["segment_ids_BT"][row, start : last + 1] = segment
            batch["targets_BT"][row, last] = batch["weights_BT"][row, last] = 0
            start = last + 1
        return end


def plan(
    lengths: Sequence[int],
    seed: int,
    epoch: int,
    row_length: int,
    rows_per_batch: int,
    segments: Sequence[int] | None = None,
) -> list[Rows]:
    """The batches of an epoch, every example in one of them: packed best fit, longest first, inside shuffled
    windows, MOST_SEGMENTS a row at most (`segments`: how many each example has; None: one); rows shuffled
    after, and empty ones fill the last batch. The same on every machine and for any number of processes (D4).
    InputError if an example is empty or longer than a row, or there is none."""
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
        rows += _pack(order[start : start + WINDOW], lengths, segments or [1] * len(lengths), row_length)
    # Packing sorts by length, so the rows of a window begin with long examples: shuffled again.
    rows = [rows[r] for r in random.permutation(len(rows))]
    rows += [()] * (-len(rows) % rows_per_batch)
    return [tuple(rows[first : first + rows_per_batch]) for first in range(0, len(rows), rows_per_batch)]


def _pack(
    window: list[int], lengths: Sequence[int], segments: Sequence[int], row_length: int
) -> list[tuple[int, ...]]:
    """Best-fit decreasing: each example goes to the fullest row that still takes it."""
    rows: list[list[int]] = []
    taken: list[int] = []  # segments of each row
    free: list[tuple[int, int]] = []  # (free tokens, row) of rows that take more segments, sorted
    for example in sorted(window, key=lambda i: -lengths[i]):
        at = bisect.bisect_left(free, (lengths[example], -1))
        most = MOST_SEGMENTS - segments[example]  # that the row may have before
        at = next((i for i in range(at, len(free)) if taken[free[i][1]] <= most), len(free))
        left, row = free.pop(at) if at < len(free) else (row_length, len(rows))
        if row == len(rows):
            rows.append([])
            taken.append(0)
        rows[row].append(example)
        taken[row] += segments[example]
        if taken[row] < MOST_SEGMENTS:
            bisect.insort(free, (left - lengths[example], row))
    return [tuple(row) for row in rows]
