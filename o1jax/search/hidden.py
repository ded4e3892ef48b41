"""Programs that do not see the question (style nano_hidden): two requests for one answer.

The first ends where a step says that it is the program; the second goes on after the program's own prompt and
the same steps. What is sampled is one answer all the same: its token ids in order, as everywhere. Where it
changes over is read off the tokens, and kept in the records, so that training lays it out likewise.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence

from o1jax.engine.interface import Completion, Engine, Request
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, pseudocode
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.fence import Style


def program_prompt(tokenizer: Tokenizer, style: Style) -> tuple[int, ...]:
    """The prompt before a program, in place of the question's; () where the question is hidden from none."""
    return chat.render(tokenizer, pseudocode.program_messages()) if style == "nano_hidden" else ()


def program_from(tokenizer: Tokenizer, token_ids: Sequence[int]) -> int:
    """The index after the token that completes the first PROGRAM_BEGINS; the number of tokens without one."""

    def has_begun(end: int) -> bool:
        return pseudocode.PROGRAM_BEGINS in chat.decode(tokenizer, token_ids[:end])

    ends = range(len(token_ids) + 1)
    return min(bisect.bisect_left(ends, True, key=has_begun), len(token_ids))


async def generate(
    engine: Engine, tokenizer: Tokenizer, requests: Sequence[Request], shown: int, hidden_ids: tuple[int, ...]
) -> list[list[Completion]]:
    """Engine.generate, with the question hidden from programs by the prompt `hidden_ids` (with (): from
    none). The first `shown` tokens of every request's prompt are the question's; steps follow."""
    if not hidden_ids:
        return await engine.generate(requests)
    begun = await engine.generate(
        [dataclasses.replace(r, stop=(*r.stop, pseudocode.PROGRAM_BEGINS)) for r in requests]
    )
    programs = {
        (i, k): _program(request, completion, k, shown, hidden_ids)
        for i, request in enumerate(requests)
        for k, completion in enumerate(begun[i])
        if _goes_on(tokenizer, completion, request.max_tokens)
    }
    written = await engine.generate(list(programs.values())) if programs else []
    completions = [list(samples) for samples in begun]
    for (i, k), (rest,) in zip(programs, written, strict=True):
        completions[i][k] = _joined(begun[i][k], rest)
    return completions


def _goes_on(tokenizer: Tokenizer, completion: Completion, room: int) -> bool:
    """Whether it stopped at the program, and not at another stop of the request's."""
    is_program = pseudocode.PROGRAM_BEGINS in chat.decode(tokenizer, completion.token_ids)
    return completion.finish_reason == "stop" and is_program and len(completion.token_ids) < room


def _program(
    request: Request, begun: Completion, sample: int, shown: int, hidden_ids: tuple[int, ...]
) -> Request:
    return dataclasses.replace(
        request,
        prompt_ids=hidden_ids + request.prompt_ids[shown:] + begun.token_ids,
        n=1,
        max_tokens=request.max_tokens - len(begun.token_ids),
        first=0,
        seed=fold_seed(request.seed, "program", request.first + sample),
        reuse_prefix=False,  # nobody else asks for what this sample has begun
    )


def _joined(begun: Completion, rest: Completion) -> Completion:
    return dataclasses.replace(
        rest,
        token_ids=begun.token_ids + rest.token_ids,
        log_probs=begun.log_probs + rest.log_probs,
        text=begun.text + rest.text,
    )
