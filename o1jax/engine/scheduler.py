"""Continuous batching, one step at a time: reserve, prefill, admit, decode, collect.

Runs on one thread and never waits for anything but the device: threads and coroutines are
jax_engine's business, device programs are in programs.py.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import time

import jax
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerBase

from o1jax.engine import prefix_cache, programs
from o1jax.engine.interface import Completion, Request
from o1jax.engine.stopping import Stop, token_bytes
from o1jax.model.config import ModelConfig
from o1jax.model.kv_cache import init_cache
from o1jax.parallel.seeds import fold_seed
from o1jax.records import FinishReason


@dataclasses.dataclass(frozen=True)
class Shape:
    """The fixed shape of a run. Bits depend on slots, context, chunk and prefill_rows, on no other."""

    slots: int
    context: int  # a multiple of chunk
    chunk: int
    prefill_rows: int
    block: int  # decode steps between two looks of the host
    pool_chunks: int  # chunks of KV that the pool holds
    stop_ids: int = 8  # stop tokens a slot that the device itself can see


@dataclasses.dataclass(eq=False)
class Job:
    """One request in flight. `limit` is max_tokens cut to the context; `result` gets the completions."""

    request: Request
    limit: int
    stop: Stop
    stop_ids: tuple[int, ...]
    result: concurrent.futures.Future
    chunks: list[prefix_cache.Chunk] = dataclasses.field(default_factory=list)
    admitted: int = 0
    done: dict[int, Completion] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Sample:
    """One completion in a slot; `tail` is the end of its text, in which a stop may have begun."""

    job: Job
    index: int
    token_ids: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    tail: bytes = b""


class Scheduler:
    """Holds the slots, the queues, the caches on the device and the counters."""

    def __init__(
        self,
        config: ModelConfig,
        graphdef: nnx.GraphDef,
        params: nnx.State,
        tokenizer: PreTrainedTokenizerBase,
        shape: Shape,
    ):
        self.shape, self.config, self.graphdef = shape, config, graphdef
        self.tokenizer, self.table = tokenizer, token_bytes(tokenizer, config.vocab_size)
        self.queued: collections.deque[Job] = collections.deque()  # no chunks yet
        self.prefilling: list[Job] = []
        self.ready: collections.deque[Job] = collections.deque()  # samples still to admit
        self.samples: list[Sample | None] = [None] * shape.slots
        self.slots = empty_slots(shape)
        self.counters: collections.Counter[str] = collections.Counter()
        self.prefixes = prefix_cache.PrefixCache(shape.pool_chunks, shape.chunk)
        self.swap(params, 0)

    @property
    def idle(self) -> bool:
        return not (self.queued or self.prefilling or self.ready or any(self.samples))

    def jobs(self) -> list[Job]:
        """Every request whose caller still waits, once."""
        live = [sample.job for sample in self.samples if sample is not None]
        return list(dict.fromkeys([*self.queued, *self.prefilling, *self.ready, *live]))

    def swap(self, params: nnx.State, version: int) -> None:
        """New weights; every key and value of the old ones goes. Only when idle."""
        self.params, self.version = params, version
        self.prefixes.clear()
        self.pool = init_cache(self.config, self.shape.pool_chunks + 1, self.shape.chunk)
        self.cache = init_cache(self.config, self.shape.slots, self.shape.context)

    def step(self) -> None:
        """One turn: what is waiting moves up, then the live slots decode one chunk."""
        begin = time.perf_counter()
        self._drop_cancelled()
        self._reserve()
        while self._should_prefill():
            self._prefill()
        self._admit()
        if any(self.samples):
            self._decode()
        self.counters["busy_s"] += time.perf_counter() - begin

    def _drop_cancelled(self) -> None:
        """Frees what requests hold whose caller has gone."""
        for jobs in (self.queued, self.prefilling, self.ready):
            for job in [job for job in jobs if job.result.cancelled()]:
                jobs.remove(job)
                self.prefixes.release(job.chunks)
        for slot, sample in enumerate(self.samples):
            if sample is not None and sample.job.result.cancelled():
                self.counters["wasted_tokens"] += len(sample.token_ids)
                self._free(slot)

    def _reserve(self) -> None:
        """Gives queued jobs the pool chunks of their prompt, in order, while there is room."""
        while self.queued:
            job = self.queued[0]
            # The last prompt token is decoded, not prefilled: its hidden state gives the first draw.
            chunks = self.prefixes.acquire(job.request.prompt_ids[:-1], job.request.reuse_prefix)
            if chunks is None:
                return
            job.chunks = chunks
            self.counters["reused_tokens"] += sum(len(c.tokens) for c in chunks if c.ready)
            self.prefilling.append(self.queued.popleft())
            self._promote()

    def _promote(self) -> None:
        """Jobs whose whole prompt is on the device become ready, in order of arrival."""
        self.ready.extend(job for job in self.prefilling if all(c.ready for c in job.chunks))
        self.prefilling = [job for job in self.prefilling if not all(c.ready for c in job.chunks)]

    def _should_prefill(self) -> bool:
        """Whether slots would stand idle for want of a prompt, and a round is worth its time."""
        if not self.prefilling:
            return False
        n_free = self.samples.count(None)
        n_ready = sum(job.request.n - job.admitted for job in self.ready)
        return n_ready < n_free

    def _prefill(self) -> None:
        """One round: the next missing chunk of up to prefill_rows prompts."""
        R, T, C = self.shape.prefill_rows, self.shape.chunk, self.shape.context // self.shape.chunk
        tokens_RT, table_RC = np.zeros((R, T), np.int32), np.zeros((R, C), np.int32)
        length_R, start_R = np.zeros(R, np.int32), np.zeros(R, np.int32)
        target_R = np.full(R, self.shape.pool_chunks, np.int32)  # the scratch row
        row_of: dict[prefix_cache.Chunk, int] = {}
        for job in self.prefilling:
            chunk = next(c for c in job.chunks if not c.ready)
            if chunk in row_of or len(row_of) == R:
                continue
            row = row_of[chunk] = len(row_of)
            length_R[row], start_R[row], target_R[row] = len(chunk.tokens), chunk.start, chunk.index
            tokens_RT[row, : len(chunk.tokens)] = chunk.tokens
            table_RC[row, : len(job.chunks)] = [c.index for c in job.chunks]
        self.pool = programs.prefill(
            self.graphdef, self.params, self.pool, tokens_RT, length_R, start_R, table_RC, target_R
        )
        for chunk in row_of:
            chunk.ready = True
            self.counters["prefill_tokens"] += len(chunk.tokens)
        self._promote()

    def _admit(self) -> None:
        """Fills free slots with ready samples, and copies their prompts' chunks into them."""
        copies: list[tuple[int, int, int]] = []
        for slot in (slot for slot, sample in enumerate(self.samples) if sample is None):
            if not self.ready:
                break
            job = self.ready[0]
            self._fill(slot, job)
            copies += [(chunk.index, slot, chunk.start) for chunk in job.chunks]
            if job.admitted == job.request.n:
                self.ready.popleft()
                self.prefixes.release(job.chunks)
                job.chunks = []
        if copies:
            self._copy(copies)

    def _copy(self, copies: list[tuple[int, int, int]]) -> None:
        room = self.shape.slots * (self.shape.context // self.shape.chunk)
        padded_M3 = np.zeros((room, 3), np.int32)
        padded_M3[: len(copies)] = copies
        self.cache = programs.copy_chunks(self.cache, self.pool, np.int32(len(copies)), *padded_M3.T)

    def _fill(self, slot: int, job: Job) -> None:
        """Puts the job's next sample in the slot."""
        request, slots = job.request, self.slots
        self.samples[slot] = Sample(job, job.admitted)
        slots.live_B[slot] = True
        slots.token_B[slot] = request.prompt_ids[-1]
        slots.position_B[slot] = len(request.prompt_ids) - 1
        slots.generated_B[slot] = 0
        slots.limit_B[slot] = job.limit
        slots.seed_B[slot] = fold_seed(request.seed, job.admitted)
        slots.temperature_B[slot] = request.temperature
        slots.top_p_B[slot] = request.top_p
        slots.top_k_B[slot] = request.top_k
        slots.stop_ids_BE[slot] = -1
        slots.stop_ids_BE[slot, : len(job.stop_ids)] = job.stop_ids
        job.admitted += 1

    def _free(self, slot: int) -> None:
        self.samples[slot] = None
        self.slots.live_B[slot] = False

    def _decode(self) -> None:
        """One block on the device, then its tokens to their samples."""
        waiting = bool(self.ready or self.prefilling or self.queued)
        patience = max(1, self.shape.slots // 16) if waiting else self.shape.slots + 1
        self.cache, out = programs.decode(
            self.graphdef, self.params, self.cache, self.slots, np.int32(patience), self.shape.block
        )
        out = jax.device_get(out)
        self.counters["decode_steps"] += int(out.steps)
        self.counters["slot_steps"] += int(out.count_B.sum())
        tokens_B_T, log_probs_B_T = out.tokens_TB.T.tolist(), out.log_probs_TB.T.tolist()
        for slot, sample in enumerate(self.samples):
            if sample is not None:
                count = int(out.count_B[slot])
                self._extend(slot, sample, tokens_B_T[slot][:count], log_probs_B_T[slot][:count])

    def _extend(self, slot: int, sample: Sample, ids: list[int], log_probs: list[float]) -> None:
        """Adds new tokens up to the stop; what was decoded past it is wasted."""
        job = sample.job
        stop = job.stop.find(sample.tail, ids, self.table)
        kept = len(ids) if stop is None else stop + 1
        sample.token_ids += ids[:kept]
        sample.log_probs += log_probs[:kept]
        self.counters["wasted_tokens"] += len(ids) - kept
        if stop is not None:
            self._finish(slot, sample, "eos" if ids[stop] == job.stop.eos else "stop")
        elif len(sample.token_ids) == job.limit:
            self._finish(slot, sample, "length")
        else:
            sample.tail = job.stop.tail(sample.tail, ids, self.table)
            self.slots.token_B[slot] = ids[-1]
            self.slots.position_B[slot] += len(ids)
            self.slots.generated_B[slot] += len(ids)

    def _finish(self, slot: int, sample: Sample, reason: FinishReason) -> None:
        job = sample.job
        ids = sample.token_ids[:-1] if reason == "eos" else sample.token_ids
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        job.done[sample.index] = Completion(
            tuple(sample.token_ids), tuple(sample.log_probs), text, reason, self.version
        )
        self.counters["generated_tokens"] += len(sample.token_ids)
        self._free(slot)
        if len(job.done) == job.request.n and job.result.set_running_or_notify_cancel():
            job.result.set_result([job.done[i] for i in range(job.request.n)])


def empty_slots(shape: Shape) -> programs.Slots:
    """No live slot: arrays on the host, written in place."""
    B = shape.slots
    ints = [np.zeros(B, np.int32) for _ in range(5)]
    return programs.Slots(
        live_B=np.zeros(B, bool),
        token_B=ints[0],
        position_B=ints[1],
        generated_B=ints[2],
        limit_B=ints[3],
        seed_B=np.zeros(B, np.uint32),
        temperature_B=np.ones(B, np.float32),
        top_p_B=np.ones(B, np.float32),
        top_k_B=ints[4],
        stop_ids_BE=np.full((B, shape.stop_ids), -1, np.int32),
    )
