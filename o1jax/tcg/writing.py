"""Sampling test cases from a test-case generator: answers, parsed into cases.

Does not say which cases are true (rewards/generated_tests.py does) and keeps no trace.
"""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Engine, Request
from o1jax.parallel.seeds import fold_seed
from o1jax.problems.formats.mbpp import without_tests
from o1jax.prompts import chat
from o1jax.prompts.fence import Style
from o1jax.records import Form, Problem, TestCase
from o1jax.tcg import prompt
from o1jax.tcg.prompt import Case, Parsed, parse_answer, without_last


@dataclasses.dataclass(frozen=True)
class WriteSettings:
    """`answers` of three cases each; `traced` as the generator was trained."""

    answers: int = 4
    traced: bool = False
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    max_tokens: int = 1024
    style: Style = "full"


@dataclasses.dataclass(frozen=True)
class Written:
    """The well-formed cases of all answers in order (equal ones stay), why other text of them was dropped,
    and how many were asked for: none, under a prompt longer than the engine's context (long_prompts: 1)."""

    cases: tuple[TestCase, ...]
    dropped: tuple[str, ...]
    asked: int
    generated_tokens: int
    long_prompts: int = 0


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer: its well-formed cases with their traces, why other text was dropped, its tokens."""

    cases: tuple[Case, ...]
    dropped: tuple[str, ...]
    tokens: int


def asking(problem: Problem, source: str | None, traced: bool, style: Style) -> tuple[chat.Message, ...]:
    """The conversation that asks for cases of `problem` under the program `source`, or (None) the question
    only; tests that end a question are cut off, for they may be the hidden ones."""
    return prompt.messages(without_tests(problem), source, traced=traced, style=style)


async def write_answers(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    source: str | None,
    settings: WriteSettings,
    seed: int,
) -> list[Answer]:
    """settings.answers answers about `problem`, under the program `source` or (None) the question only.

    A case that the token limit cuts short is dropped. No answers where the prompt fills the engine's context.
    """
    prompt_ids = chat.render(tokenizer, asking(problem, source, settings.traced, settings.style))
    if len(prompt_ids) >= engine.max_context:
        return []
    request = Request(
        prompt_ids=prompt_ids,
        n=settings.answers,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seed=fold_seed(seed, problem.id, "write_cases"),
        reuse_prefix=False,
    )
    (completions,) = await engine.generate([request])
    return [_answer(problem, completion) for completion in completions]


def _answer(problem: Problem, completion: Completion) -> Answer:
    parsed = parse_completion(completion, problem.form)
    cut = ("cut short",) if completion.finish_reason == "length" else ()
    return Answer(parsed.cases, (*parsed.dropped, *cut), len(completion.token_ids))


def parse_completion(completion: Completion, form: Form) -> Parsed:
    """The cases of an answer, without the one in which the token limit may have cut it short."""
    text = completion.text
    return parse_answer(without_last(text) if completion.finish_reason == "length" else text, form)


async def write_cases(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    source: str | None,
    settings: WriteSettings,
    seed: int,
) -> Written:
    """The cases of `write_answers` without their traces."""
    answers = await write_answers(engine, tokenizer, problem, source, settings, seed)
    return Written(
        cases=tuple(case.test for answer in answers for case in answer.cases),
        dropped=tuple(why for answer in answers for why in answer.dropped),
        asked=prompt.CASES * len(answers),
        generated_tokens=sum(answer.tokens for answer in answers),
        long_prompts=int(not answers),
    )
