"""What is in flight: a request with its future, its samples as they grow, and where a sample ends.

Stop strings are matched on the bytes of the tokens, so that one that is split over tokens, or begins inside
one, is met without decoding text. Holds no device array and decides no order (jax_engine/, vllm_engine/).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from o1jax.engine.interface import Completion, Request
from o1jax.prompts import chat
from o1jax.prompts.ends import end_ids
from o1jax.records import FinishReason, InputError

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # how sentencepiece vocabularies write a raw byte


def token_bytes(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[bytes]:
    """The bytes that each token adds to the text, by id: byte-level BPE or sentencepiece.

    A model may have more tokens than its tokenizer (padded vocabularies), and ids may have gaps: those add
    nothing.
    """
    tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(list(range(chat.size(tokenizer))))]
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    characters = {character: byte for byte, character in bytes_to_unicode().items()}
    # Neither kind of vocabulary says which it is: GPT-2's alphabet has no space, sentencepiece's words begin
    # with one, and a single token outside the alphabet settles it.
    is_byte_level = all(set(token) <= characters.keys() for token in tokens if token not in added)
    table = []
    for token in tokens:
        if token in added:
            table.append(token.encode())
        elif is_byte_level:
            table.append(bytes(characters[character] for character in token))
        elif match := BYTE_TOKEN.fullmatch(token):
            table.append(bytes([int(match[1], 16)]))
        else:
            table.append(token.replace("▁", " ").encode())
    return table + [b""] * (vocab_size - len(table))


@dataclasses.dataclass(frozen=True)
class Stop:
    """What ends a sample."""

    ends: tuple[int, ...]  # the tokenizer's own (prompts/ends.py), of which a text shows none
    ids: frozenset[int]  # other tokens
    # In its text, wherever they begin and end: Qwen splits <Step_End>\n as <|Step|_End|>\n.
    strings: tuple[bytes, ...]

    def find(self, tail: bytes, ids: Sequence[int], table: Sequence[bytes]) -> int | None:
        """The index of the first of `ids` that ends the sample; `tail` is the text before them."""
        # Most blocks of tokens hold no stop: one look at all of their text comes first.
        if self.strings and any(s in tail + b"".join(table[i] for i in ids) for s in self.strings):
            return self._find_one_by_one(tail, ids, table)
        return next((index for index, i in enumerate(ids) if i in self.ends or i in self.ids), None)

    def _find_one_by_one(self, text: bytes, ids: Sequence[int], table: Sequence[bytes]) -> int:
        for index, i in enumerate(ids):
            text += table[i]
            if i in self.ends or i in self.ids or any(s in text for s in self.strings):
                return index
        raise AssertionError("a stop string was in the whole text and in none of its beginnings")

    def tail(self, tail: bytes, ids: Sequence[int], table: Sequence[bytes]) -> bytes:
        """The last bytes of the text in which a stop string may have begun."""
        longest = max((len(s) for s in self.strings), default=1) - 1
        if longest == 0:
            return b""
        return (tail + b"".join(table[i] for i in ids))[-longest:]

    def device_ids(self, table: Sequence[bytes], room: int) -> tuple[int, ...]:
        """Up to `room` ids at which decoding may stop on the device: those, `ends` first, that end the
        sample whatever came before. An optimisation: `find` decides."""
        # A device knows ids and no text, so a stop that only two tokens together complete is not among them.
        whole = [i for i, text in enumerate(table) if any(s in text for s in self.strings)]
        return tuple(dict.fromkeys((*self.ends, *sorted(self.ids), *whole)))[:room]


@dataclasses.dataclass(eq=False)
class Job:
    """One request in flight; equal to itself alone, since the same request may be asked twice."""

    request: Request
    limit: int  # max_tokens, cut to what the context holds after the prompt
    stop: Stop  # what ends a sample, decided on the host
    stop_ids: tuple[int, ...]  # those of it that the device, or vLLM, sees
    result: concurrent.futures.Future  # gets all completions at once
    done: dict[int, Completion] = dataclasses.field(default_factory=dict)  # by index of sample

    def finish(self, index: int, completion: Completion) -> None:
        """Keeps a sample; with the last one the caller gets all, in order."""
        self.done[index] = completion
        # set_running_or_notify_cancel: between a caller's cancelling and our looking, set_result would raise.
        if len(self.done) == self.request.n and self.result.set_running_or_notify_cancel():
            self.result.set_result([self.done[i] for i in range(self.request.n)])


@dataclasses.dataclass(eq=False)
class Sample:
    """One completion as it grows."""

    job: Job
    index: int  # of the job's n samples
    token_ids: list[int] = dataclasses.field(default_factory=list)
    log_probs: list[float] = dataclasses.field(default_factory=list)
    tail: bytes = b""  # the end of its text, in which a stop string may have begun

    def extend(
        self, ids: Sequence[int], log_probs: Sequence[float], table: Sequence[bytes]
    ) -> FinishReason | None:
        """Takes new tokens up to the one that ends the sample; returns why it ended, if it did."""
        stop = self.job.stop
        # A device decodes in blocks and sees few stops: what it sampled past the end is dropped here.
        end = stop.find(self.tail, ids, table)
        kept = len(ids) if end is None else end + 1
        self.token_ids += ids[:kept]
        self.log_probs += log_probs[:kept]
        if end is not None:
            return "eos" if ids[end] in stop.ends else "stop"
        self.tail = stop.tail(self.tail, ids, table)
        return "length" if len(self.token_ids) == self.job.limit else None

    def completion(
        self, tokenizer: PreTrainedTokenizerBase, reason: FinishReason, version: int
    ) -> Completion:
        """What the caller gets of a sample that has ended."""
        ids = self.token_ids[:-1] if reason == "eos" else self.token_ids
        text = chat.decode(tokenizer, ids)
        return Completion(tuple(self.token_ids), tuple(self.log_probs), text, reason, version)


class Intake:
    """Requests -> jobs: refuses what cannot be served before anything runs, and compiles stops.

    `table`: token_bytes. At most `n_stop_ids` stops of a sample are given to the device.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        table: Sequence[bytes],
        max_context: int,
        vocab_size: int,
        n_stop_ids: int,
    ):
        self._ends = end_ids(tokenizer)
        self._table, self._max_context, self._vocab_size = table, max_context, vocab_size
        self._n_stop_ids = n_stop_ids
        self._stop_ids: dict[Stop, tuple[int, ...]] = {}  # each asks every token of the vocabulary once

    def jobs(self, requests: Sequence[Request]) -> list[Job]:
        """A job a request; InputError, one line, for the first that cannot be served."""
        for index, request in enumerate(requests):
            if problem := self._fault(request):
                raise InputError(f"request {index}: {problem}")
        return [self._job(request) for request in requests]

    def _job(self, request: Request) -> Job:
        strings = tuple(text.encode() for text in request.stop)
        stop = Stop(self._ends, frozenset(request.stop_ids), strings)
        if stop not in self._stop_ids:
            self._stop_ids[stop] = stop.device_ids(self._table, self._n_stop_ids)
        limit = min(request.max_tokens, self._max_context - len(request.prompt_ids))
        return Job(request, limit, stop, self._stop_ids[stop], concurrent.futures.Future())

    def _fault(self, request: Request) -> str:
        """What is wrong with the request: seen, wanted and the fix; empty when nothing is."""
        length = len(request.prompt_ids)
        if length == 0:
            return "the prompt is empty: give at least one token"
        if length + 1 > self._max_context:
            return (
                f"the prompt has {length} tokens and the context holds {self._max_context}, "
                "one of them for the answer: shorten the prompt or raise the context"
            )
        if not all(0 <= i < self._vocab_size for i in request.prompt_ids):
            return (
                f"a prompt token is outside the vocabulary of {self._vocab_size}: encode with the model's "
                "tokenizer"
            )
        if request.n < 1 or request.max_tokens < 1:
            return f"n = {request.n} and max_tokens = {request.max_tokens}: both must be at least 1"
        if not (request.temperature >= 0 and 0 < request.top_p <= 1 and request.top_k >= 0):
            return (
                f"temperature {request.temperature}, top_p {request.top_p}, top_k {request.top_k}: "
                "wanted temperature >= 0, 0 < top_p <= 1 and top_k >= 0"
            )
        return "a stop string is empty: leave it out" if "" in request.stop else ""
