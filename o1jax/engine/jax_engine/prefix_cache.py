"""Which prompt chunks have their keys and values on the device: host bookkeeping of a chunk pool.

A chunk holds the KV of one chunk of tokens. It is keyed by every token up to the chunk's end, so it
is a pure function of token ids, and requests with a common start share chunks. Chunks that nobody
holds stay until their room is needed, least recently used first. Touches no device array.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from o1jax.engine.jobs import Chunk


class PrefixCache:
    """Chunks by the token prefix they end. `hits`, `misses` and `evictions` count chunks."""

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
        for chunk in reversed(chunks):
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
    key = b""
    for start in range(0, len(ids), chunk_size):
        tokens = tuple(ids[start : start + chunk_size])
        key = hashlib.blake2b(key + np.asarray(tokens, np.int32).tobytes(), digest_size=16).digest()
        yield key, start, tokens
