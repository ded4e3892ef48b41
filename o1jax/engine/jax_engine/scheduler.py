"""Continuous batching, one turn at a time: prompts move up, free slots are filled, a block is decoded.

What the slots hold is on the device; the host sends what changes and reads the tokens, with `shape.ahead` one
block late, so that the device never waits for it.

Runs on one thread and waits for nothing but the device: threads and coroutines are engine.py's business,
prompts prefill.py's, and the device programs are in programs.py.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from transformers import PreTrainedTokenizerBase

from o1jax.engine.jax_engine import programs
from o1jax.engine.jax_engine.prefill import PromptQueue, Shape
from o1jax.engine.jobs import Job, Sample, token_bytes
from o1jax.model.config import ModelConfig
from o1jax.model.init import parameter_count
from o1jax.model.kv_cache import init_cache
from o1jax.parallel.mesh import replicated
from o1jax.parallel.processes import report_slow
from o1jax.parallel.seeds import fold_seed

LARGE = 50_000_000  # parameters; smaller models compile silently, or the demo would say it at every stage


class InFlight(NamedTuple):
    """A decoded block that the host has not read."""

    out: programs.Decoded
    samples: tuple[Sample | None, ...]  # by slot, when it was dispatched


class Scheduler:
    """Holds the slots, their cache on the device and the counters. `params` come with `swap`."""

    def __init__(
        self,
        config: ModelConfig,
        compiled: programs.Programs,
        tokenizer: PreTrainedTokenizerBase,
        shape: Shape,
        sharding: NamedSharding,
    ):
        self.config, self.shape = config, shape
        self.tokenizer, self.table = tokenizer, token_bytes(tokenizer, config.vocab_size)
        self.sharding = sharding  # of the caches: left to JAX, a program would compile twice
        self.counters: collections.Counter[str] = collections.Counter()
        self.prompts = PromptQueue(self._prefill, shape, self.counters)
        self._prefill_round = reporting("compiled prefill", compiled.prefill)
        self._decode_block = reporting("compiled the decode step", compiled.decode)
        self._copy_chunks, self._edit = compiled.copy_chunks, compiled.edit
        self.samples: list[Sample | None] = [None] * shape.slots
        self._in_flight: collections.deque[InFlight] = collections.deque()
        self._working_since: float | None = None  # when the device got what it works on
        self._runs_at_once = sharding.mesh.devices.flat[0].platform == "cpu"
        self._no_changes()

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
        self.leaves = self.cache = self.pool = self.slots = None
        self.prompts.prefixes.clear()

    def swap(self, leaves: list[jax.Array], version: int) -> None:
        """New weights (programs.Programs), and empty caches. Only when idle, after `forget`."""
        self.leaves, self.version = leaves, version
        shape, sharding = self.shape, self.sharding
        # The pool's last row is scratch.
        self.pool = init_cache(self.config, shape.pool_chunks + 1, shape.chunk, sharding=sharding)
        self.cache = programs.empty_slot_cache(self.config, sharding, shape.slots, shape.context)
        everywhere = replicated(self.sharding.mesh)
        self.slots = jax.device_put(programs.empty_slots(self.shape.slots), everywhere)
        self._no_changes()

    def step(self) -> None:
        """One turn."""
        begin, waited = time.perf_counter(), self.counters["waited_s"]
        self._drop_cancelled()
        self.prompts.advance(self.samples.count(None))
        self._admit()
        if any(self.samples):
            self._dispatch()
        while len(self._in_flight) > self.shape.ahead or (self._in_flight and not any(self.samples)):
            self._collect()
        turn_s = time.perf_counter() - begin
        self.counters["busy_s"] += turn_s
        self.counters["host_s"] += turn_s - (self.counters["waited_s"] - waited)

    def _no_changes(self) -> None:
        # New arrays and not the old ones cleared: a dispatched edit may still read those.
        self._edits = programs.empty_slots(self.shape.slots)
        self._changed_B = np.zeros(self.shape.slots, bool)

    def _run(self, program: Callable[..., Any], *arguments: Any) -> Any:
        """Dispatches a program: from now on the device has work, if it had none."""
        begin = time.perf_counter()
        if self._working_since is None:
            self._working_since = begin
        result = program(*arguments)
        if self._runs_at_once:  # then the call's time is the device's, its compilation too
            self.counters["waited_s"] += time.perf_counter() - begin
        return result

    def _prefill(self, *inputs: np.ndarray) -> None:
        """One round of chunks (prefill.prefill_inputs), into the pool."""
        self.pool = self._run(self._prefill_round, self.leaves, self.pool, *inputs)

    def _drop_cancelled(self) -> None:
        """Frees what requests hold whose caller has gone."""
        self.prompts.drop_cancelled()
        for slot, sample in enumerate(self.samples):
            if sample is not None and sample.job.result.cancelled():
                self.counters["wasted_tokens"] += len(sample.token_ids)
                self._free(slot)

    def _admit(self) -> None:
        """Fills free slots with ready samples, and copies their prompts' chunks into them."""
        # Copied, where paged attention would point: decoding reads one contiguous row a slot, whose shape
        # (and so its bits) no neighbour changes, and the keys that it writes never reach a shared chunk (D2).
        copies: list[tuple[int, int, int]] = []
        for slot in (slot for slot, sample in enumerate(self.samples) if sample is None):
            if not self.prompts.ready:
                break
            job, index, chunks = self.prompts.next_sample()
            self.samples[slot] = Sample(job, index)
            fill(self._edits, slot, job, index)
            self._changed_B[slot] = True
            copies += [(chunk.index, slot, chunk.start) for chunk in chunks]
        for start in range(0, len(copies), programs.COPIES):
            part_M3 = np.full((programs.COPIES, 3), (0, self.shape.slots, 0), np.int32)
            part_M3[: len(copies) - start] = copies[start : start + programs.COPIES]
            self.cache = self._run(self._copy_chunks, self.cache, self.pool, *part_M3.T)

    def _free(self, slot: int) -> None:
        self.samples[slot] = None
        # As the row of `_edits` is that nobody has filled: not live, where the device may not know that the
        # sample has ended, and without filters, which cost time in any row.
        self._changed_B[slot] = True

    def _dispatch(self) -> None:
        """The next block, behind what the device still has."""
        # Somebody waits: come back as soon as a few slots are free. Nobody: when all have finished.
        patience = max(1, self.shape.slots // 16) if self.prompts.jobs() else self.shape.slots
        if self._changed_B.any():
            self.slots = self._run(self._edit, self.slots, self._edits, self._changed_B)
            self._no_changes()
        self.cache, self.slots, out = self._run(
            self._decode_block, self.leaves, self.cache, self.slots, np.int32(patience)
        )
        self._in_flight.append(InFlight(out, tuple(self.samples)))

    def _collect(self) -> None:
        """Waits for the oldest block, and gives its tokens to their samples."""
        out, samples = self._in_flight.popleft()
        begin = time.perf_counter()
        out = jax.device_get(out)
        now = time.perf_counter()
        self.counters["waited_s"] += now - begin
        self.counters["device_s"] += now - self._working_since
        self._working_since = now if self._in_flight else None
        self.counters["decode_steps"] += int(out.steps)
        self.counters["slot_steps"] += int(out.count_B.sum())
        tokens_B_T, log_probs_B_T = out.tokens_TB.T.tolist(), out.log_probs_TB.T.tolist()
        for slot, (sample, count) in enumerate(zip(samples, out.count_B.tolist(), strict=True)):
            if sample is None:
                continue
            if sample is self.samples[slot]:
                self._extend(slot, sample, tokens_B_T[slot][:count], log_probs_B_T[slot][:count])
            else:  # it ended in the block before, by what the device cannot see
                self.counters["wasted_tokens"] += count

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


def reporting(what: str, program: Callable[..., Any]) -> Callable[..., Any]:
    """`program`, a jitted function of parameters, whose first call says how long it took to compile."""
    first = True

    def called(*arguments: Any) -> Any:
        nonlocal first
        begin = time.perf_counter()
        result = program(*arguments)  # returns once it is compiled and dispatched, not when it has run
        if first and parameter_count(arguments[0]) >= LARGE:
            report_slow(what, time.perf_counter() - begin)
        first = False
        return result

    return called


def fill(slots: programs.Slots, slot: int, job: Job, index: int) -> None:
    """Puts a job's sample, its `index`-th, in the slot, at its prompt's last token."""
    request = job.request
    slots.live_B[slot] = True
    slots.token_B[slot] = request.prompt_ids[-1]
    slots.position_B[slot] = len(request.prompt_ids) - 1
    slots.generated_B[slot] = 0
    slots.limit_B[slot] = job.limit
    # Of the sample, not of the slot (D10).
    slots.seed_B[slot] = fold_seed(request.seed, request.first + index)
    slots.temperature_B[slot] = request.temperature
    slots.top_p_B[slot] = request.top_p
    slots.top_k_B[slot] = request.top_k
    slots.stop_ids_BE[slot] = -1
    slots.stop_ids_BE[slot, : len(job.stop_ids)] = job.stop_ids
