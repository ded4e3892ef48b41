"""Continuous batching, one turn at a time: prompts move up, free slots are filled, a block is decoded.

Runs on one thread and waits for nothing but the device: threads and coroutines are jax_engine's
business, prompts prompt_queue's, and the device programs are in programs.py.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Iterable

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from transformers import PreTrainedTokenizerBase

from o1jax.engine.jax_engine import programs
from o1jax.engine.jax_engine.prefix_cache import PrefixCache
from o1jax.engine.jobs import Chunk, Job, Sample
from o1jax.engine.stopping import token_bytes
from o1jax.model.config import ModelConfig
from o1jax.model.kv_cache import KVCache, init_cache
from o1jax.parallel.seeds import fold_seed

# Requests on their way to the slots: they get chunks of the pool, are prefilled, and become ready.
#
# In order of arrival. Owns the pool of prompt chunks on the device; the slots are scheduler.py's.


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


class Scheduler:
    """Holds the slots, their cache on the device and the counters. `params` come with `swap`."""

    def __init__(
        self,
        config: ModelConfig,
        graphdef: nnx.GraphDef,
        tokenizer: PreTrainedTokenizerBase,
        shape: Shape,
        sharding: NamedSharding,
    ):
        self.config, self.graphdef, self.shape = config, graphdef, shape
        self.tokenizer, self.table = tokenizer, token_bytes(tokenizer, config.vocab_size)
        self.sharding = sharding  # of the caches: left to JAX, a program would compile twice
        self.counters: collections.Counter[str] = collections.Counter()
        self.prompts = PromptQueue(graphdef, sharding, shape, self.counters)
        self.samples: list[Sample | None] = [None] * shape.slots
        self.slots = empty_slots(shape)

    @property
    def idle(self) -> bool:
        return not any(self.samples) and not self.prompts.jobs()

    def add(self, job: Job) -> None:
        """A request to serve, behind those that wait."""
        self.prompts.waiting.append(job)

    def jobs(self) -> list[Job]:
        """Every request whose caller still waits, once."""
        live = [sample.job for sample in self.samples if sample is not None]
        return list(dict.fromkeys([*self.prompts.jobs(), *live]))

    def forget(self) -> None:
        """Lets go of the weights and of all keys and values: the next ones need the room. Only when idle."""
        self.params = self.cache = None
        self.prompts.forget()

    def swap(self, params: nnx.State, version: int) -> None:
        """New weights, and empty caches. Only when idle, after `forget`."""
        self.params, self.version = params, version
        self.prompts.restart(params, self._empty_cache(self.shape.pool_chunks + 1, self.shape.chunk))
        self.cache = self._empty_cache(self.shape.slots, self.shape.context)

    def step(self) -> None:
        """One turn."""
        begin = time.perf_counter()
        self._drop_cancelled()
        self.prompts.advance(self.samples.count(None))
        self._admit()
        if any(self.samples):
            self._decode()
        self.counters["busy_s"] += time.perf_counter() - begin

    def _empty_cache(self, rows: int, size: int) -> KVCache:
        return init_cache(self.config, rows, size, sharding=self.sharding)

    def _drop_cancelled(self) -> None:
        """Frees what requests hold whose caller has gone."""
        self.prompts.drop_cancelled()
        for slot, sample in enumerate(self.samples):
            if sample is not None and sample.job.result.cancelled():
                self.counters["wasted_tokens"] += len(sample.token_ids)
                self._free(slot)

    def _admit(self) -> None:
        """Fills free slots with ready samples, and copies their prompts' chunks into them."""
        copies: list[tuple[int, int, int]] = []
        for slot in (slot for slot, sample in enumerate(self.samples) if sample is None):
            if not self.prompts.ready:
                break
            job, index, chunks = self.prompts.next_sample()
            self.samples[slot] = Sample(job, index)
            fill(self.slots, slot, job, index)
            copies += [(chunk.index, slot, chunk.start) for chunk in chunks]
        if copies:
            padded_M3 = np.zeros((self.shape.slots * self.shape.chunks_a_slot, 3), np.int32)
            padded_M3[: len(copies)] = copies
            self.cache = programs.copy_chunks(
                self.sharding, self.cache, self.prompts.pool, np.int32(len(copies)), *padded_M3.T
            )

    def _free(self, slot: int) -> None:
        self.samples[slot] = None
        self.slots.live_B[slot] = False

    def _decode(self) -> None:
        """One block on the device, then its tokens to their samples."""
        # Somebody waits: come back as soon as a few slots are free. Nobody: when all have finished.
        patience = max(1, self.shape.slots // 16) if self.prompts.jobs() else self.shape.slots
        self.cache, out = programs.decode(
            self.graphdef,
            self.sharding,
            self.params,
            self.cache,
            self.slots,
            np.int32(patience),
            self.shape.block,
            min(len(self.tokenizer), self.config.vocab_size),
        )
        out = jax.device_get(out)  # from here on the arrays in self.slots may be written
        self.counters["decode_steps"] += int(out.steps)
        self.counters["slot_steps"] += int(out.count_B.sum())
        tokens_B_T, log_probs_B_T = out.tokens_TB.T.tolist(), out.log_probs_TB.T.tolist()
        for slot, sample in enumerate(self.samples):
            if sample is not None:
                count = out.count_B[slot]
                self._extend(slot, sample, tokens_B_T[slot][:count], log_probs_B_T[slot][:count])

    def _extend(self, slot: int, sample: Sample, ids: list[int], log_probs: list[float]) -> None:
        """Gives a sample its new tokens; those past its end are wasted."""
        before = len(sample.token_ids)
        reason = sample.extend(ids, log_probs, self.table)
        self.counters["wasted_tokens"] += len(ids) - (len(sample.token_ids) - before)
        if reason is not None:
            self.counters["generated_tokens"] += len(sample.token_ids)
            completion = sample.completion(self.tokenizer, reason, self.version)
            sample.job.finish(sample.index, completion)
            self._free(slot)
        else:
            self.slots.token_B[slot] = ids[-1]
            self.slots.position_B[slot] += len(ids)
            self.slots.generated_B[slot] += len(ids)


def empty_slots(shape: Shape) -> programs.Slots:
    """No live slot: arrays on the host, written in place."""
    B = shape.slots
    return programs.Slots(
        live_B=np.zeros(B, bool),
        token_B=np.zeros(B, np.int32),
        position_B=np.zeros(B, np.int32),
        generated_B=np.zeros(B, np.int32),
        limit_B=np.zeros(B, np.int32),
        seed_B=np.zeros(B, np.uint32),
        temperature_B=np.ones(B, np.float32),
        top_p_B=np.ones(B, np.float32),
        top_k_B=np.zeros(B, np.int32),
        stop_ids_BE=np.full((B, shape.stop_ids), -1, np.int32),
    )


def fill(slots: programs.Slots, slot: int, job: Job, index: int) -> None:
    """Puts sample `index` of the job in the slot, at its prompt's last token."""
    request = job.request
    slots.live_B[slot] = True
    slots.token_B[slot] = request.prompt_ids[-1]
    slots.position_B[slot] = len(request.prompt_ids) - 1
    slots.generated_B[slot] = 0
    slots.limit_B[slot] = job.limit
    slots.seed_B[slot] = fold_seed(request.seed, index)
    slots.temperature_B[slot] = request.temperature
    slots.top_p_B[slot] = request.top_p
    slots.top_k_B[slot] = request.top_k
    slots.stop_ids_BE[slot] = -1
    slots.stop_ids_BE[slot, : len(job.stop_ids)] = job.stop_ids


@dataclasses.dataclass(frozen=True)
class Shape:
    """The fixed shape of a run. Bits depend on slots, context, chunk and prefill_rows, on no other."""

    slots: int
    context: int  # positions a slot, a multiple of chunk
    chunk: int  # tokens
    prefill_rows: int
    block: int  # decode steps between two looks of the host
    pool_chunks: int  # prompt chunks whose keys and values are kept
    stop_ids: int = 8  # stop tokens a slot that the device itself can see

    @property
    def chunks_a_slot(self) -> int:
        return self.context // self.chunk


def pool_size(config: ModelConfig, context: int, chunk: int, rows: int, megabytes: float) -> int:
    """Chunks in the pool: what `megabytes` hold, and at least one prefill round's whole prompts."""
    itemsize = 2 if config.compute_dtype == "bfloat16" else 4
    chunk_bytes = 2 * config.n_layers * chunk * config.n_kv_heads * config.head_dim * itemsize
    return max(rows * (context // chunk), int(megabytes * 2**20 / chunk_bytes))
