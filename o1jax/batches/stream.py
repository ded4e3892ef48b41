"""Global batches by one integer, the step, running over epochs; a process assembles only its rows.

Nothing here is state that a checkpoint would have to hold: the step is the data position (D4).
Knows no devices. There is no prefetch thread: a batch is assembled in well under a millisecond while
the device, to which steps are dispatched ahead, is busy with the step before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from o1jax.batches.encode import Example
from o1jax.batches.pack import Plan, plan
from o1jax.records import InputError

Batch = dict[str, np.ndarray]


class Batches:
    """The packed batches of some examples: `at(step)` is a pure function of (examples, seed, step)."""

    def __init__(self, examples: Sequence[Example], *, row_length: int, rows_per_batch: int, seed: int):
        for example in examples:
            if len(example.token_ids) > row_length:
                raise InputError(
                    f"example {example.id!r} has {len(example.token_ids)} tokens, more than a row's "
                    f"{row_length}; raise row_length, or drop long examples with keep_short"
                )
        self.row_length, self.rows_per_batch, self.seed = row_length, rows_per_batch, seed
        self.ids = tuple(example.id for example in examples)
        self._tokens = [np.asarray(example.token_ids, np.int32) for example in examples]
        self._weights = [np.asarray(example.weights, np.float32) for example in examples]
        self._starts = [0]  # the first step of every epoch seen so far, and of the one after
        self._plans: dict[int, Plan] = {}  # of the latest epoch only

    def plan(self, epoch: int) -> Plan:
        """The packed rows of one epoch."""
        if epoch not in self._plans:
            lengths = [len(tokens) for tokens in self._tokens]
            self._plans = {epoch: plan(lengths, self.seed, epoch, self.row_length, self.rows_per_batch)}
        return self._plans[epoch]

    def rows(self, step: int) -> tuple[tuple[int, ...], ...]:
        """The example indices in every row of the global batch at `step`."""
        while self._starts[-1] <= step:
            self._starts.append(self._starts[-1] + self.plan(len(self._starts) - 1).n_batches)
        epoch = next(e for e in reversed(range(len(self._starts))) if self._starts[e] <= step)
        return self.plan(epoch).batch(step - self._starts[epoch])

    def at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The global batch at `step`, or a slice of its rows (a process's share)."""
        return self.assemble(self.rows(step)[rows])

    def epoch(self, epoch: int = 0, rows: slice = slice(None)) -> Iterator[Batch]:
        """Every example once: what evaluation reads."""
        planned = self.plan(epoch)
        for index in range(planned.n_batches):
            yield self.assemble(planned.batch(index)[rows])

    def ids_at(self, step: int) -> list[str]:
        """The ids of all examples in the global batch at `step`, to name a bad one."""
        return [self.ids[i] for row in self.rows(step) for i in row]

    def tokens_at(self, step: int) -> int:
        """The tokens in the global batch at `step`, padding not counted."""
        return sum(len(self._tokens[i]) for row in self.rows(step) for i in row)

    def digest(self) -> str:
        """A hash of everything that decides the batches."""
        hashed = hashlib.blake2b(digest_size=16)
        hashed.update(repr((self.row_length, self.rows_per_batch, self.seed, self.ids)).encode())
        for tokens, weights in zip(self._tokens, self._weights, strict=True):
            hashed.update(len(tokens).to_bytes(8) + tokens.tobytes() + weights.tobytes())
        return hashed.hexdigest()

    def assemble(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Rows of example indices -> arrays [B, T].

        tokens, targets (the next token of the same example), positions (from 0 in every example),
        segment_ids (from 1; 0 is padding), weights (float32, of the targets) and example_id (-1 is padding).
        """
        shape_BT = len(rows), self.row_length
        batch = {
            "tokens_BT": np.zeros(shape_BT, np.int32),
            "targets_BT": np.zeros(shape_BT, np.int32),
            "positions_BT": np.zeros(shape_BT, np.int32),
            "segment_ids_BT": np.zeros(shape_BT, np.int32),
            "weights_BT": np.zeros(shape_BT, np.float32),
            "example_id_BT": np.full(shape_BT, -1, np.int32),
        }
        for row, examples in enumerate(rows):
            start = 0
            for segment, example in enumerate(examples, start=1):
                start = self._write(batch, row, start, segment, example)
        return batch

    def _write(self, batch: Batch, row: int, start: int, segment: int, example: int) -> int:
        """Writes one example as a segment; its last token has no target. Returns where the next starts."""
        tokens, weights = self._tokens[example], self._weights[example]
        end = start + len(tokens)
        batch["tokens_BT"][row, start:end] = tokens
        batch["targets_BT"][row, start : end - 1] = tokens[1:]
        batch["weights_BT"][row, start : end - 1] = weights[1:]
        batch["positions_BT"][row, start:end] = np.arange(len(tokens))
        batch["segment_ids_BT"][row, start:end] = segment
        batch["example_id_BT"][row, start:end] = example
        return end
