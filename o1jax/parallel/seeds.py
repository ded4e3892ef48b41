"""Seeds and stable hashes: pure functions of their arguments, the same on every machine.

Does not import JAX; a JAX key is made from a seed where it is used.
"""

from __future__ import annotations

import hashlib


def stable_hash(text: str) -> int:
    """A 64-bit hash of `text` that never changes between runs or machines."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def fold_seed(seed: int, *parts: int | str) -> int:
    """A new 32-bit seed from `seed` and (stage, round, update, problem id, node, sample, ...)."""
    return stable_hash("\x1f".join([str(seed), *(f"{type(p).__name__}:{p}" for p in parts)])) >> 32


def in_share(problem_id: str, process_index: int, process_count: int) -> bool:
    """Whether a problem belongs to this process: its share is by stable hash of the id (D1)."""
    return stable_hash(problem_id) % process_count == process_index
