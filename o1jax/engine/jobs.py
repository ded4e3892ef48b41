"""What is in flight: a request with its future, its samples as they grow, and the run's fixed shape.

Holds no device array and decides no order; that is prompt_queue.py and scheduler.py (vllm_scheduler.py).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Request
from o1jax.engine.stopping import Stop
from o1jax.records import FinishReason, InputError

# Whether a request can be served, and what it is cut to. Pure checks before anything runs.


def check(requests: Sequence[Request], max_context: int, vocab_size: int) -> None:
    """Raises InputError, one line, for the first request that cannot be served."""
    for index, request in enumerate(requests):
        if problem := fault(request, max_context, vocab_size):
            raise InputError(f"request {index}: {problem}")


def fault(request: Request, max_context: int, vocab_size: int) -> str:
    """What is wrong with the request: seen, wanted and the fix; empty when nothing is."""
    length = len(request.prompt_ids)
    if length == 0:
        return "the prompt is empty: give at least one token"
    if length + 1 > max_context:
        return (
            f"the prompt has {length} tokens and the context holds {max_context}, "
            "one of them for the answer: shorten the prompt or raise the context"
        )
    if not all(0 <= i < vocab_size for i in request.prompt_ids):
        return f"a prompt token is outside the vocabulary of {vocab_size}: encode with the model's tokenizer"
    if request.n < 1 or request.max_tokens < 1:
        return f"n = {request.n} and max_tokens = {request.max_tokens}: both must be at least 1"
    if not (request.temperature >= 0 and 0 < request.top_p <= 1 and request.top_k >= 0):
        return (
            f"temperature {request.temperature}, top_p {request.top_p}, top_k {request.top_k}: "
            "wanted temperature >= 0, 0 < top_p <= 1 and top_k >= 0"
        )
    if "" in request.stop:
        return "a stop string is empty: leave it out"
    return ""


def token_limit(request: Request, max_context: int) -> int:
    """max_tokens, cut to what the context holds after the prompt."""
    return min(request.max_tokens, max_context - len(request.prompt_ids))


@dataclasses.dataclass(eq=False)
class Job:
    """One request in flight. `limit` is max_tokens cut to the context; `result` gets the completions."""

    request: Request
    limit: int
    stop: Stop
    stop_ids: tuple[int, ...]  # those that the device sees
    result: concurrent.futures.Future
    chunks: list[Chunk] = dataclasses.field(default_factory=list)  # held until every sample has a slot
    admitted: int = 0
    done: dict[int, Completion] = dataclasses.field(default_factory=dict)

    @property
    def prefilled(self) -> bool:
        return all(chunk.ready for chunk in self.chunks)

    def finish(self, index: int, completion: Completion) -> None:
        """Keeps a sample; with the last one the caller gets all, in order."""
        self.done[index] = completion
        if len(self.done) == self.request.n and self.result.set_running_or_notify_cancel():
            self.result.set_result([self.done[i] for i in range(self.request.n)])


@dataclasses.dataclass(eq=False)
class Sample:
    """One completion as it grows; `tail` is the end of its text, in which a stop may have begun."""

    job: Job
    index: int
    token_ids: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    tail: bytes = b""

    def extend(
        self, ids: Sequence[int], log_probs: Sequence[float], table: Sequence[bytes]
    ) -> FinishReason | None:
        """Takes new tokens up to the one that ends the sample; returns why it ended, if it did."""
        stop = self.job.stop
        end = stop.find(self.tail, ids, table)
        kept = len(ids) if end is None else end + 1
        self.token_ids += ids[:kept]
        self.log_probs += log_probs[:kept]
        if end is not None:
            return "eos" if ids[end] == stop.eos else "stop"
        self.tail = stop.tail(self.tail, ids, table)
        return "length" if len(self.token_ids) == self.job.limit else None

    def completion(
        self, tokenizer: PreTrainedTokenizerBase, reason: FinishReason, version: int
    ) -> Completion:
        """What the caller gets of a sample that has ended."""
        ids = self.token_ids[:-1] if reason == "eos" else self.token_ids
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return Completion(tuple(self.token_ids), tuple(self.log_probs), text, reason, version)


class Intake:
    """Requests -> jobs: refuses what cannot be served before anything runs, and compiles stops."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        table: Sequence[bytes],
        max_context: int,
        vocab_size: int,
        stop_ids: int,
    ):
        self._eos = -1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self._table, self._max_context, self._vocab_size = table, max_context, vocab_size
        self._room = stop_ids
        self._stop_ids: dict[Stop, tuple[int, ...]] = {}

    def jobs(self, requests: Sequence[Request]) -> list[Job]:
        """A job a request; InputError for the first that cannot be served."""
        check(requests, self._max_context, self._vocab_size)
        return [self._job(request) for request in requests]

    def _job(self, request: Request) -> Job:
        strings = tuple(text.encode() for text in request.stop)
        stop = Stop(self._eos, frozenset(request.stop_ids), strings)
        if stop not in self._stop_ids:
            self._stop_ids[stop] = stop.device_ids(self._table, self._room)
        limit = token_limit(request, self._max_context)
        return Job(request, limit, stop, self._stop_ids[stop], concurrent.futures.Future())


@dataclasses.dataclass(eq=False)
class Chunk:
    """`index` in the pool; `tokens` are at positions start, start + 1, ...; `ready`: KV computed."""

    index: int
    key: bytes
    start: int
    tokens: tuple[int, ...]
    holders: int = 0
    ready: bool = False
    keep: bool = False
