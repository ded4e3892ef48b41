"""Whether a request can be served, and what it is cut to. Pure checks before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from o1jax.engine.interface import Request
from o1jax.records import InputError


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
