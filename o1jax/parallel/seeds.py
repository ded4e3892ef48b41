"""Seeds and stable hashes: pure functions of their arguments, the same on every machine.

Does not import JAX; a JAX key is made from a seed where it is used.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def stable_hash(text: str) -> int:
    """A 64-bit hash of `text` that never changes between runs or machines."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def fold_seed(seed: int, *parts: int | str) -> int:
    """A new 32-bit seed from `seed` and (stage, round, update, problem id, node, sample, ...)."""
    return stable_hash("\x1f".join([str(seed), *(f"{type(p).__name__}:{p}" for p in parts)])) >> 32


def drawn(items: Iterable[Item], most: int, seed: int, *parts: int | str) -> list[Item]:
    """At most `most` (0: all) of the items, in an order drawn by the seed and its parts."""
    # All are shuffled, whatever the limit: what a low one keeps, a higher one keeps as well.
    shuffled = list(items)
    random.Random(fold_seed(seed, *parts)).shuffle(shuffled)
    return shuffled[: most or None]
