"""From a completion's tokens to reasoning steps: where a step ends, what it says, what is wrong with it.

Token ids are cut, never re-encoded: the token that completes `<Step_End>` belongs to its step (it may
hold more text, or the newline after it may open the next step). Samples nothing and judges nothing.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion
from o1jax.engine.step_scorer import Path
from o1jax.prompts import chat, pseudocode
from o1jax.records import ACTIONS, Node


@dataclasses.dataclass(frozen=True)
class SampledStep:
    """One step as sampled. `program` is the source of an action-3 step, else empty; `error` says why
    the step is dead, else is empty. `log_probs` is aligned with `token_ids`."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    action: int
    finish_reason: str
    policy_version: int
    program: str = ""
    error: str = ""


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """The text of sampled tokens, without a final end-of-sequence token."""
    return chat.decode(tokenizer, without_eos(token_ids, tokenizer.eos_token_id))


def without_eos(token_ids: tuple[int, ...], eos_id: int) -> tuple[int, ...]:
    return token_ids[:-1] if token_ids and token_ids[-1] == eos_id else token_ids


def cut(
    tokenizer: PreTrainedTokenizerBase, completion: Completion, number: int, room: int
) -> list[SampledStep]:
    """The steps of a completion whose first step is step `number`; never empty.

    It ends with a step that has a program, or that is dead (`error`), or at a completion's stop. A
    program ends its path: of the tokens after it an immediate end-of-sequence token is kept, others
    are dropped. `room` is the number of tokens the path had left: a path that uses it up without a
    program is dead.
    """
    steps, start, end = [], 0, _step_end(tokenizer, completion.token_ids, 0)
    while end is not None:
        steps.append(_read(tokenizer, completion, start, end, number + len(steps)))
        if steps[-1].program or steps[-1].error:
            return steps
        start, end = end, _step_end(tokenizer, completion.token_ids, end)
    if start < len(completion.token_ids) or not steps:
        return [*steps, _unfinished(tokenizer, completion, start)]
    if start >= room:
        steps[-1] = dataclasses.replace(steps[-1], error=f"the path's {room} tokens are used up, no program")
    return steps


def _step_end(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...], start: int) -> int | None:
    """The index after the token that completes the first `<Step_End>` from `start` on, or None."""

    def is_closed(end: int) -> bool:
        return pseudocode.STOP in text_of(tokenizer, token_ids[start:end])

    if not is_closed(len(token_ids)):
        return None
    return bisect.bisect_left(range(len(token_ids) + 1), True, lo=start, key=is_closed)


def _read(
    tokenizer: PreTrainedTokenizerBase, completion: Completion, start: int, end: int, number: int
) -> SampledStep:
    """Step `number` in the tokens from `start` to `end`, dead if it does not parse."""
    text = text_of(tokenizer, completion.token_ids[start:end])
    action, program, error = 0, "", ""
    try:
        step = pseudocode.parse_step(text, number)
        action = step.action
        program = pseudocode.program_of(step) if action == 3 else ""
    except pseudocode.StepError as malformed:
        error = str(malformed)
    if program and completion.token_ids[end:] == (tokenizer.eos_token_id,):
        end += 1
    return _slice(completion, start, end, text=text, action=action, program=program, error=error)


def _unfinished(tokenizer: PreTrainedTokenizerBase, completion: Completion, start: int) -> SampledStep:
    """The dead step made of the tokens after the last `<Step_End>`."""
    text = text_of(tokenizer, completion.token_ids[start:])
    n_tokens = len(completion.token_ids) - start
    if completion.finish_reason == "length":
        error = f"no {pseudocode.STOP} within {n_tokens} tokens"
    elif text.strip():
        error = f"the text ends without {pseudocode.STOP}"
    else:
        error = "the path ends without a program (action 3)"
    end = len(completion.token_ids)
    return _slice(completion, start, end, text=text, action=0, program="", error=error)


def _slice(
    completion: Completion, start: int, end: int, *, text: str, action: int, program: str, error: str
) -> SampledStep:
    token_ids = completion.token_ids[start:end]
    is_last = end == len(completion.token_ids)
    return SampledStep(
        token_ids=token_ids,
        log_probs=completion.log_probs[start:end],
        text=text,
        action=action,
        finish_reason=completion.finish_reason if is_last else "stop",
        policy_version=completion.policy_version,
        program=program,
        error=error,
    )


def path_of(prompt_ids: tuple[int, ...], steps: Sequence[Node | SampledStep], eos_id: int) -> Path:
    """What a scorer reads: the prompt and the steps' tokens; a final eos is not part of a step."""
    tokens = [without_eos(step.token_ids, eos_id) for step in steps]
    ends = itertools.accumulate(map(len, tokens), initial=len(prompt_ids) - 1)
    programs = (len(ids) if step.action == PROGRAM else 0 for ids, step in zip(tokens, steps, strict=True))
    return Path(tuple(itertools.chain(prompt_ids, *tokens)), tuple(ends)[1:], tuple(programs))


PROGRAM = ACTIONS[-1]
