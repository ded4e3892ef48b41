"""From a completion's tokens to reasoning steps: where a step ends, what it says, what is wrong with it.

Token ids are cut, never encoded again (D3). Samples nothing and judges nothing.
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
from o1jax.prompts.ends import end_ids
from o1jax.records import ACTIONS, Node, Rollout

PROGRAM = ACTIONS[-1]


@dataclasses.dataclass(frozen=True)
class SampledStep:
    """One step as sampled."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]  # nats, as sampled; one a token
    text: str
    action: int  # 0 of a dead step
    finish_reason: str
    policy_version: int
    program: str = ""  # the source of an action-3 step
    error: str = ""  # why the step is dead
    program_from: int = 0  # as in Node


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """The text of sampled tokens, without special tokens: none of them is part of a program."""
    return chat.decode(tokenizer, without_eos(token_ids, end_ids(tokenizer)), special=False)


def without_eos(token_ids: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    """The tokens but for a final one of `ends` (prompts/ends.py)."""
    return token_ids[:-1] if token_ids and token_ids[-1] in ends else token_ids


def _step_text(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    """The text of a step, special tokens included: step markers may be such, and others are malformed."""
    return chat.decode(tokenizer, without_eos(token_ids, end_ids(tokenizer)))


def cut(
    tokenizer: PreTrainedTokenizerBase, answer: Completion | Rollout, number: int, room: int
) -> list[SampledStep]:
    """The steps of an answer whose first step is step `number`; never empty.

    It ends with a step that has a program, or that is dead (`error`), or at the answer's stop. A program
    ends its path: of the tokens after it an immediate end-of-sequence token is kept, others are dropped.
    `room` is the number of tokens the path had left: a path that uses it up without a program is dead.
    """
    steps, start, end = [], 0, _step_end(tokenizer, answer.token_ids, 0)
    while end is not None:
        steps.append(_read(tokenizer, answer, start, end, number + len(steps)))
        if steps[-1].program or steps[-1].error:
            return steps
        start, end = end, _step_end(tokenizer, answer.token_ids, end)
    if start < len(answer.token_ids) or not steps:
        return [*steps, _unfinished(tokenizer, answer, start, number + len(steps))]
    # An expansion stops here too, and is no dead end: its path has room for the next step.
    if start >= room:
        steps[-1] = dataclasses.replace(steps[-1], error=f"the path's {room} tokens are used up, no program")
    return steps


def _step_end(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...], start: int) -> int | None:
    """The index after the token that completes the first `<Step_End>` from `start` on, or None."""

    def is_closed(end: int) -> bool:
        return pseudocode.STOP in _step_text(tokenizer, token_ids[start:end])

    if not is_closed(len(token_ids)):
        return None
    # Decoded text, not a token, tells where a step ends: Qwen splits the marker's end as `_End>\n`, so the
    # token that completes it may hold more. Once closed, always closed, so bisection saves most decoding.
    return bisect.bisect_left(range(len(token_ids) + 1), True, lo=start, key=is_closed)


def _read(
    tokenizer: PreTrainedTokenizerBase, answer: Completion | Rollout, start: int, end: int, number: int
) -> SampledStep:
    """Step `number` in the tokens from `start` to `end`, dead if it does not parse."""
    text = _step_text(tokenizer, answer.token_ids[start:end])
    try:
        step = pseudocode.parse_step(text, number)
    except pseudocode.StepError as malformed:
        return _slice(answer, start, end, text, error=str(malformed))
    if step.action != PROGRAM:
        return _slice(answer, start, end, text, action=step.action)
    # The end-of-sequence token belongs to the program's step, so that the policy learns to stop there.
    if len(answer.token_ids) == end + 1 and answer.token_ids[end] in end_ids(tokenizer):
        end += 1
    return _slice(answer, start, end, text, action=PROGRAM, program=step.text)


def _unfinished(
    tokenizer: PreTrainedTokenizerBase, answer: Completion | Rollout, start: int, number: int
) -> SampledStep:
    """Step `number`, of the tokens after the last `<Step_End>`: a program whose answer ended in order, or a
    dead step."""
    end = len(answer.token_ids)
    text = _step_text(tokenizer, answer.token_ids[start:])
    if answer.finish_reason == "eos" and (program := _program_without_marker(text, number)):
        return _slice(answer, start, end, text + pseudocode.STOP, action=PROGRAM, program=program)
    error = "the path ends without a program (action 3)"
    if answer.finish_reason == "length":
        error = f"no {pseudocode.STOP} within {end - start} tokens"
    elif text.strip():
        error = f"the text ends without {pseudocode.STOP}"
    return _slice(answer, start, end, text, error=error)


def _program_without_marker(text: str, number: int) -> str:
    """The program of a last step that lacks nothing but its `<Step_End>`; "" of any other."""
    # Models that were not taught here often end their message with the block: all that was asked is there.
    try:
        step = pseudocode.parse_step(text + pseudocode.STOP, number)
    except pseudocode.StepError:
        return ""
    return step.text if step.action == PROGRAM else ""


def _slice(
    answer: Completion | Rollout, start: int, end: int, text: str, action: int = 0, **said: str
) -> SampledStep:
    # Only the answer's last step ended as the answer did; those before it stopped at their marker.
    reason = answer.finish_reason if end == len(answer.token_ids) else "stop"
    ids, log_probs = answer.token_ids[start:end], answer.log_probs[start:end]
    return SampledStep(ids, log_probs, text, action, reason, answer.policy_version, **said)


def path_of(prompt_ids: tuple[int, ...], steps: Sequence[Node | SampledStep], ends: tuple[int, ...]) -> Path:
    """What a scorer reads: the prompt and the steps' tokens."""
    # A scorer was trained on steps that end at their marker (samples.py): a final end is not part of one.
    tokens = [without_eos(step.token_ids, ends) for step in steps]
    lengths = itertools.accumulate(map(len, tokens), initial=len(prompt_ids) - 1)
    programs = (step.action == PROGRAM for step in steps)
    token_ids = tuple(itertools.chain(prompt_ids, *tokens))
    return Path(token_ids, tuple(lengths)[1:], tuple(programs), len(prompt_ids))
