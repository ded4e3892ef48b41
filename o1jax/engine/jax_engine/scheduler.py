"""Continuous batching, one turn at a time: prompts move up, free slots are filled, a block is decoded.

Runs on one thread and waits for nothing but the device: threads and coroutines are engine.py's business,
prompts prefill.py's, and the device programs are in programs.py.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from transformers import PreTrainedTokenizerBase

from o1jax.engine.jax_engine import programs
from o1jax.engine.jax_engine.prefill import PromptQueue, Shape
from o1jax.engine.jobs import Job, Sample, token_bytes
from o1jax.model.config import ModelConfig
from o1jax.model.init import parameter_count
from o1jax.model.kv_cache import KVCache, init_cache
from o1jax.parallel.processes import report_slow
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts.chat import size

LARGE = 50_000_000  # parameters; smaller models compile silently, or the demo would say it at every stage


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
        self.config, self.shape = config, shape
        self.tokenizer, self.table = tokenizer, token_bytes(tokenizer, config.vocab_size)
        self.sharding = sharding  # of the caches: left to JAX, a program would compile twice
        self.counters: collections.Counter[str] = collections.Counter()
        self.prompts = PromptQueue(self._prefill, shape, self.counters)
        self._prefill_round = reporting(
            "compiled prefill", lambda *arrays: programs.prefill(graphdef, sharding, *arrays)
        )
        n_tokens = min(size(tokenizer), config.vocab_size)  # the rest of a padded vocabulary is never sampled
        self._decode_block = reporting(
            "compiled the decode step",
            lambda *arrays: programs.decode(graphdef, sharding, *arrays, shape.block, n_tokens),
        )
        self.samples: list[Sample | None] = [None] * shape.slots
        self.slots = programs.empty_slots(shape.slots)

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
        self.params = self.cache = self.pool = None
        self.prompts.prefixes.clear()

    def swap(self, params: nnx.State, version: int) -> None:
        """New weights, and empty caches. Only when idle, after `forget`."""
        self.params, self.version = params, version
        self.pool = self._empty_cache(self.shape.pool_chunks + 1, self.shape.chunk)  # the last row is scratch
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

    def _prefill(self, *inputs: np.ndarray) -> None:
        """One round of chunks (prefill.prefill_inputs), into the pool."""
        self.pool = self._prefill_round(self.params, self.pool, *inputs)

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
            fill(self.slots, slot, job, index)
            copies += [(chunk.index, slot, chunk.start) for chunk in chunks]
        if copies:
            padded_M3 = np.zeros((self.shape.slots * self.shape.chunks_a_slot, 3), np.int32)
            padded_M3[: len(copies)] = copies
            self.cache = programs.copy_chunks(
                self.sharding, self.cache, self.pool, np.int32(len(copies)), *padded_M3.T
            )

    def _free(self, slot: int) -> None:
        self.samples[slot] = None
        self.slots.live_B[slot] = False

    def _decode(self) -> None:
        """One block on the device, then its tokens to their samples."""
        # Somebody waits: come back as soon as a few slots are free. Nobody: when all have finished.
        patience = max(1, self.shape.slots // 16) if self.prompts.jobs() else self.shape.slots
        self.cache, out = self._decode_block(self.params, self.cache, self.slots, np.int32(patience))
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
