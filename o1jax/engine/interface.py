"""What every engine promises: `generate` and `load_params`.

Holds the types and the Protocol only; the engines are jax_engine/ and vllm_engine/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from o1jax.records import FinishReason


@dataclasses.dataclass(frozen=True)
class Request:
    """n samples from one prompt, those from number `first` on.

    Sample i draws from fold_seed(seed, i), so that it depends on (weights, prompt_ids, seed, i) and the
    sampling settings alone: neither on n nor on what else is asked (D10).
    """

    prompt_ids: tuple[int, ...]
    n: int = 1  # samples
    first: int = 0  # the number of the first: those before it are asked for elsewhere
    max_tokens: int = 256  # of a sample, at most
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # 1: no filter
    top_k: int = 0  # 0: all
    # A sample ends at the token that completes one of these. It is kept whole, though its text may run past
    # the string: the next request continues from ids, and nothing sampled is ever encoded anew (D3).
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()  # likewise; the tokenizer's own ends ("eos") always stop
    seed: int = 0
    reuse_prefix: bool = True  # others will share this prompt's start: its keys and values are worth keeping
    problem: str = ""  # what it is about; of several servers, one gets all that is about one problem


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sample."""

    token_ids: tuple[int, ...]  # with the token that ended it
    # Natural log-probs of token_ids, float32, under the distribution that was sampled from: after
    # temperature, top_p and top_k; greedy: at temperature 1, without filters.
    log_probs: tuple[float, ...]
    text: str  # of all token_ids but for a final end token of the tokenizer's own
    finish_reason: FinishReason
    policy_version: int  # of the weights: one version a completion (D5)


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
        which requests were served), slot_occupancy (mean share of slots in use while busy). The JAX engine
        parts busy_s: device_s, in which the device had work, and host_s, in which the engine's thread worked
        and did not wait for the device. Where a block is dispatched ahead, the two overlap."""
        ...

    async def close(self) -> None:
        """Stops; a request still running raises asyncio.CancelledError."""
        ...
