"""Reference programs and reasoning of problems -> SFT samples, for both prompts.

Does not choose problems: a pool whose references must not be trained on is never passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from o1jax.prompts import chat, direct, pseudocode
from o1jax.prompts.task import Style
from o1jax.records import Problem, SftSample


def samples(
    problems: Sequence[Problem], tokenizer: chat.Tokenizer, variants: int, style: Style
) -> list[SftSample]:
    """The first `variants` reasoning chains of each problem under the pseudocode prompt, and as many of
    its programs under the direct one; `style` is the prompts'."""
    return [
        _sample(f"{problem.id}/{name}", problem, messages, answer, tokenizer)
        for problem in problems
        for name, messages, answer in _answers(problem, variants, style)
    ]


def texts(problems: Sequence[Problem], variants: int) -> Iterator[str]:
    """What a tokenizer for these problems is trained on: questions and answers."""
    for problem in problems:
        yield problem.question
        yield from (answer for _, _, answer in _answers(problem, variants, "nano"))


def _answers(
    problem: Problem, variants: int, style: Style
) -> Iterator[tuple[str, Sequence[Mapping[str, str]], str]]:
    for i, steps in enumerate(problem.reasoning[:variants]):
        yield f"reasoning_{i}", pseudocode.messages(problem, style=style), pseudocode.render_path(steps)
    for i, source in enumerate(problem.solutions[:variants]):
        yield f"direct_{i}", direct.messages(problem, style=style), direct.render_answer(source)


def _sample(
    id: str,
    problem: Problem,
    messages: Sequence[Mapping[str, str]],
    answer: str,
    tokenizer: chat.Tokenizer,
) -> SftSample:
    answer_ids = (*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id)
    return SftSample(
        id=id,
        problem_id=problem.id,
        prompt_ids=chat.render(tokenizer, messages),
        answer_ids=answer_ids,
        is_trained=(True,) * len(answer_ids),
    )
