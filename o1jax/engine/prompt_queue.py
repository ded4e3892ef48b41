"""Requests on their way to the slots: they get chunks of the pool, are prefilled, and become ready.

In order of arrival. Owns the pool of prompt chunks on the device; the slots are scheduler.py's.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from o1jax.engine import programs
from o1jax.engine.jobs import Job, Shape
from o1jax.engine.prefix_cache import Chunk, PrefixCache
from o1jax.model.kv_cache import KVCache


class PromptQueue:
    """`waiting` hold no chunks yet, `prefilling` lack some keys and values, `ready` lack slots."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        sharding: NamedSharding,
        shape: Shape,
        counters: collections.Counter[str],
    ):
        self.graphdef, self.sharding, self.shape, self.counters = graphdef, sharding, shape, counters
        self.prefixes = PrefixCache(shape.pool_chunks, shape.chunk)
        self.waiting: collections.deque[Job] = collections.deque()
        self.prefilling: list[Job] = []
        self.ready: collections.deque[Job] = collections.deque()

    def forget(self) -> None:
        """Lets go of the weights and the pool."""
        self.prefixes.clear()
        self.params = self.pool = None

    def restart(self, params: nnx.State, pool: KVCache) -> None:
        """New weights and an empty pool of pool_chunks + 1 rows (the last is scratch)."""
        self.params, self.pool = params, pool

    def jobs(self) -> list[Job]:
        return [*self.waiting, *self.prefilling, *self.ready]

    def drop_cancelled(self) -> None:
        """Lets go of requests whose caller has gone."""
        for jobs in (self.waiting, self.prefilling, self.ready):
            for job in [job for job in jobs if job.result.cancelled()]:
                jobs.remove(job)
                self.prefixes.release(job.chunks)

    def advance(self, n_free: int) -> None:
        """Prefills, if slots would stand idle otherwise, until `n_free` samples are ready or all are."""
        self._reserve()
        while self.prefilling and n_samples(self.ready) < n_free:
            self._prefill()

    def next_sample(self) -> tuple[Job, int, list[Chunk]]:
        """The next ready sample's job, index and prompt chunks. The last sample of a job lets the
        chunks go: they must be copied before anything else is prefilled."""
        job = self.ready[0]
        index, chunks = job.admitted, job.chunks
        job.admitted += 1
        if job.admitted == job.request.n:
            self.ready.popleft()
            self.prefixes.release(chunks)
            job.chunks = []
        return job, index, chunks

    def _reserve(self) -> None:
        """Gives waiting requests the chunks of their prompt while the pool has room, and no further
        ahead than the slots are many: chunks that are held cannot be evicted."""
        while self.waiting and n_samples(self.prefilling) + n_samples(self.ready) < self.shape.slots:
            job = self.waiting[0]
            # The last prompt token is decoded, not prefilled: its hidden state gives the first draw.
            chunks = self.prefixes.acquire(job.request.prompt_ids[:-1], job.request.reuse_prefix)
            if chunks is None:
                break
            job.chunks = chunks
            self.counters["reused_tokens"] += sum(len(c.tokens) for c in chunks if c.ready)
            self.prefilling.append(self.waiting.popleft())
        self._promote()

    def _promote(self) -> None:
        self.ready.extend(job for job in self.prefilling if job.prefilled)
        self.prefilling = [job for job in self.prefilling if not job.prefilled]

    def _prefill(self) -> None:
        """One round: the next prefill_rows missing chunks, several of a prompt too; a shared one once."""
        rows: dict[Chunk, Job] = {}
        missing = ((chunk, job) for job in self.prefilling for chunk in job.chunks if not chunk.ready)
        for chunk, job in missing:
            rows.setdefault(chunk, job)
            if len(rows) == self.shape.prefill_rows:
                break
        inputs = prefill_inputs(rows, self.shape)
        self.pool = programs.prefill(self.graphdef, self.sharding, self.params, self.pool, *inputs)
        self.counters["prefill_rounds"] += 1
        for chunk in rows:
            chunk.ready = True
            self.counters["prefill_tokens"] += len(chunk.tokens)
        self._promote()


def n_samples(jobs: Iterable[Job]) -> int:
    """Samples that still want a slot."""
    return sum(job.request.n - job.admitted for job in jobs)


def prefill_inputs(rows: dict[Chunk, Job], shape: Shape) -> tuple[np.ndarray, ...]:
    """tokens_RT, length_R, start_R, table_RC and target_R; rows without a chunk go to scratch."""
    R = shape.prefill_rows
    tokens_RT, table_RC = np.zeros((R, shape.chunk), np.int32), np.zeros((R, shape.chunks_a_slot), np.int32)
    length_R, start_R = np.zeros(R, np.int32), np.zeros(R, np.int32)
    target_R = np.full(R, shape.pool_chunks, np.int32)
    for row, (chunk, job) in enumerate(rows.items()):
        tokens_RT[row, : len(chunk.tokens)] = chunk.tokens
        length_R[row], start_R[row], target_R[row] = len(chunk.tokens), chunk.start, chunk.index
        table_RC[row, : len(job.chunks)] = [c.index for c in job.chunks]
    return tokens_RT, length_R, start_R, table_RC, target_R
