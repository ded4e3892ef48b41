"""Prefill: which prompt chunks have their keys and values on the device, and who waits for theirs.

A chunk is `chunk` tokens of a prompt at a multiple of `chunk` (the last one perhaps shorter). Requests get
chunks of one pool in order of arrival, are prefilled, and become ready for slots; the slots are
scheduler.py's, what the device computes programs.py's.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from o1jax.engine.jobs import Job


@dataclasses.dataclass(frozen=True)
class Shape:
    """The fixed shape of a run (D2). Bits depend on slots, context, chunk and prefill_rows, on no other."""

    slots: int  # samples that are decoded at once
    context: int  # positions a slot, a multiple of chunk
    chunk: int  # tokens
    prefill_rows: int  # chunks a prefill round
    block: int  # decode steps between two looks of the host
    ahead: int  # blocks that the device has beside the one that the host waits for: 0 or 1
    pool_chunks: int  # prompt chunks whose keys and values are kept

    @property
    def chunks_a_slot(self) -> int:
        return self.context // self.chunk


@dataclasses.dataclass(eq=False)
class Chunk:
    """One chunk of a prompt, in the pool."""

    index: int  # its row of the pool
    key: bytes  # a hash of every token up to its end
    start: int  # the position of its first token
    tokens: tuple[int, ...]
    holders: int = 0  # prompts that need it: it is not evicted
    ready: bool = False  # its keys and values are computed
    keep: bool = False  # somebody said that others will share it (Request.reuse_prefix)


class PrefixCache:
    """Host bookkeeping of the pool: chunks by the token prefix they end. Chunks that nobody holds stay until
    their room is needed, least recently used first.
    `hits`, `misses` and `evictions` count chunks."""

    def __init__(self, n_chunks: int, chunk_size: int):
        self.chunk_size = chunk_size
        self.hits = self.misses = self.evictions = 0
        self._free = list(range(n_chunks))
        self._chunks: dict[bytes, Chunk] = {}
        self._idle: collections.OrderedDict[bytes, Chunk] = collections.OrderedDict()

    def acquire(self, ids: Sequence[int], keep: bool) -> list[Chunk] | None:
        """Holds the chunks that cover `ids`, making those that are missing (not ready); None when
        the pool has no room for all of them until others are released."""
        keys = list(chunk_keys(ids, self.chunk_size))
        held = [self._hold(self._chunks[key]) for key, _, _ in keys if key in self._chunks]
        n_missing = len(keys) - len(held)
        # All or none: two prompts that each held half of what they need would wait for each other for ever.
        if n_missing > len(self._free) + len(self._idle):
            self.release(held)
            return None
        self.hits += len(held)
        self.misses += n_missing
        chunks = [self._chunks.get(key) or self._make(key, start, tokens) for key, start, tokens in keys]
        for chunk in chunks:
            chunk.keep = chunk.keep or keep
        return chunks

    def release(self, chunks: Sequence[Chunk]) -> None:
        """Lets go. The deepest chunks become the oldest, so that a chain is evicted from its end."""
        for chunk in reversed(chunks):  # a chunk whose beginning is evicted is found by nobody
            chunk.holders -= 1
            if chunk.holders == 0 and chunk.ready and chunk.keep:
                self._idle[chunk.key] = chunk
            elif chunk.holders == 0:
                self._drop(chunk)

    def clear(self) -> None:
        """Forgets every chunk; nobody may hold one."""
        for chunk in list(self._idle.values()):
            self._drop(chunk)
        self._idle.clear()
        if self._chunks:
            raise RuntimeError(f"{len(self._chunks)} chunks are held while the prefix cache is cleared")

    def _hold(self, chunk: Chunk) -> Chunk:
        self._idle.pop(chunk.key, None)
        chunk.holders += 1
        return chunk

    def _make(self, key: bytes, start: int, tokens: tuple[int, ...]) -> Chunk:
        if not self._free:
            _, oldest = self._idle.popitem(last=False)
            self._drop(oldest)
            self.evictions += 1
        self._chunks[key] = Chunk(self._free.pop(), key, start, tokens)
        return self._hold(self._chunks[key])

    def _drop(self, chunk: Chunk) -> None:
        del self._chunks[chunk.key]
        self._free.append(chunk.index)


def chunk_keys(ids: Sequence[int], chunk_size: int) -> Iterable[tuple[bytes, int, tuple[int, ...]]]:
    """(key, start, tokens) of every chunk of `ids`, the last one perhaps shorter: a hash chain."""
    # A chain, since a chunk's keys and values depend on all tokens before it. By token ids and not by
    # requests: what is reused is then the same bits as what would be computed (D2).
    key = b""
    for start in range(0, len(ids), chunk_size):
        tokens = tuple(ids[start : start + chunk_size])
        key = hashlib.blake2b(key + np.asarray(tokens, np.int32).tobytes(), digest_size=16).digest()
        yield key, start, tokens


@dataclasses.dataclass(eq=False)
class Prompt:
    """A request with its prompt's chunks, which it holds until every sample has a slot."""

    job: Job
    chunks: list[Chunk]
    admitted: int = 0  # samples that have a slot, or had one


class PromptQueue:
    """`waiting` hold no chunks yet, `prefilling` lack some keys and values, `ready` lack slots.

    `prefill(tokens_RT, length_R, start_R, table_RC, target_R)` computes chunks (programs.prefill).
    """

    def __init__(self, prefill: Callable[..., None], shape: Shape, counters: collections.Counter[str]):
        self.prefill, self.shape, self.counters = prefill, shape, counters
        self.prefixes = PrefixCache(shape.pool_chunks, shape.chunk)
        self.waiting: collections.deque[Job] = collections.deque()
        self.prefilling: list[Prompt] = []
        self.ready: collections.deque[Prompt] = collections.deque()

    def jobs(self) -> list[Job]:
        return [*self.waiting, *(prompt.job for prompt in (*self.prefilling, *self.ready))]

    def drop_cancelled(self) -> None:
        """Lets go of requests whose caller has gone."""
        self.waiting = collections.deque(job for job in self.waiting if not job.result.cancelled())
        for prompts in (self.prefilling, self.ready):
            for prompt in [prompt for prompt in prompts if prompt.job.result.cancelled()]:
                prompts.remove(prompt)
                self.prefixes.release(prompt.chunks)

    def advance(self, n_free: int) -> None:
        """Prefills, if slots would stand idle otherwise, until `n_free` samples are ready or all are."""
        self._reserve()
        # No further: every round keeps the running samples waiting, and what is ready early holds chunks.
        while self.prefilling and n_samples(self.ready) < n_free:
            self._round()

    def next_sample(self) -> tuple[Job, int, list[Chunk]]:
        """The next ready sample's job, index and prompt chunks. The last sample of a job lets the
        chunks go: they must be copied before anything else is prefilled."""
        prompt = self.ready[0]
        index = prompt.admitted
        prompt.admitted += 1
        if prompt.admitted == prompt.job.request.n:
            self.ready.popleft()
            self.prefixes.release(prompt.chunks)
        return prompt.job, index, prompt.chunks

    def _reserve(self) -> None:
        """Gives waiting requests the chunks of their prompt while the pool has room, and no further
        ahead than the slots are many: chunks that are held cannot be evicted."""
        while self.waiting and n_samples(self.prefilling) + n_samples(self.ready) < self.shape.slots:
            request = self.waiting[0].request
            # The last prompt token is decoded, not prefilled: its hidden state gives the first draw. A whole
            # prompt in the cache thus needs no prefill round at all.
            chunks = self.prefixes.acquire(request.prompt_ids[:-1], request.reuse_prefix)
            if chunks is None:  # those behind wait too: overtaken for ever, a long prompt would starve
                break
            self.counters["reused_tokens"] += sum(len(c.tokens) for c in chunks if c.ready)
            self.prefilling.append(Prompt(self.waiting.popleft(), chunks))
        self._promote()

    def _promote(self) -> None:
        done = [prompt for prompt in self.prefilling if all(chunk.ready for chunk in prompt.chunks)]
        self.ready.extend(done)
        self.prefilling = [prompt for prompt in self.prefilling if prompt not in done]

    def _round(self) -> None:
        """The next prefill_rows missing chunks, several of a prompt too; a shared one once."""
        rows: dict[Chunk, Prompt] = {}
        missing = (
            (chunk, prompt) for prompt in self.prefilling for chunk in prompt.chunks if not chunk.ready
        )
        for chunk, prompt in missing:
            rows.setdefault(chunk, prompt)
            if len(rows) == self.shape.prefill_rows:
                break
        self.prefill(*prefill_inputs(rows, self.shape))
        self.counters["prefill_rounds"] += 1
        for chunk in rows:
            chunk.ready = True
            self.counters["prefill_tokens"] += len(chunk.tokens)
        self._promote()


def n_samples(prompts: Iterable[Prompt]) -> int:
    """Samples that still want a slot."""
    return sum(prompt.job.request.n - prompt.admitted for prompt in prompts)


def prefill_inputs(rows: dict[Chunk, Prompt], shape: Shape) -> tuple[np.ndarray, ...]:
    """tokens_RT, length_R, start_R, table_RC and target_R; rows without a chunk go to scratch."""
    R = shape.prefill_rows
    tokens_RT, table_RC = np.zeros((R, shape.chunk), np.int32), np.zeros((R, shape.chunks_a_slot), np.int32)
    length_R, start_R = np.zeros(R, np.int32), np.zeros(R, np.int32)
    target_R = np.full(R, shape.pool_chunks, np.int32)
    for row, (chunk, prompt) in enumerate(rows.items()):
        tokens_RT[row, : len(chunk.tokens)] = chunk.tokens
        length_R[row], start_R[row], target_R[row] = len(chunk.tokens), chunk.start, chunk.index
        table_RC[row, : len(prompt.chunks)] = [c.index for c in prompt.chunks]
    return tokens_RT, length_R, start_R, table_RC, target_R
