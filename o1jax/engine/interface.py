"""What every engine promises: `generate` and `load_params`.

Holds the types and the Protocol only; the engines are jax_engine, vllm_engine and vllm_server.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from o1jax.records import FinishReason


@dataclasses.dataclass(frozen=True)
class Request:
    """n samples from one prompt.

    `stop` strings end a sample at the token that completes one of them; that token is kept, whole
    (its text may run past the string). `stop_ids` likewise (finish reason "eos" for the
    tokenizer's own, which is always a stop). Sample i draws from fold_seed(seed, i), so a sample
    depends on (weights, prompt_ids, seed, i) and the sampling settings alone. `reuse_prefix` says
    that other requests will share this prompt's start, so its keys and values are worth keeping;
    `problem` names what they are about: where there are several servers, those of one go to one.
    """

    prompt_ids: tuple[int, ...]
    n: int = 1
    max_tokens: int = 256
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    reuse_prefix: bool = True
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample. `log_probs[t]` is the natural log-prob of `token_ids[t]`, float32, under the
    distribution it was sampled from (temperature, top_p and top_k applied; greedy: temperature 1).
    `text` decodes all of `token_ids` but for a final end-of-sequence token."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    finish_reason: FinishReason
    policy_version: int


class Engine(Protocol):
    """Awaitable by many coroutines of one event loop at once; never blocks that loop on a device."""

    max_context: int  # tokens, prompt and completion together

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """Samples all requests; result[i] holds requests[i].n completions in order of sample.

        A request whose prompt does not fit, with at least one token after it, raises InputError
        before anything runs; max_tokens is cut to what the context holds (finish reason "length").
        Cancelling the awaiting task frees the slots.
        """
        ...

    async def load_params(self, params: Any, version: int) -> None:
        """Drains what runs, swaps the weights (the trainer's parameter tree), resumes: one version
        a completion, and no cached key or value of the old weights survives."""
        ...

    def stats(self) -> dict[str, float]:
        """Counters since the start: generated_tokens, prefill_tokens, reused_tokens, busy_s (time in
        which the device had work), slot_occupancy (mean share of slots in use while busy)."""
        ...

    async def close(self) -> None:
        """Stops; a request still running raises asyncio.CancelledError."""
        ...
