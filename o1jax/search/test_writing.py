"""Sampling test cases from a test-case generator: answers, parsed into cases.

Does not say which cases are true (rewards/generated_tests.py does) and keeps no trace.
"""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Completion, Engine, Request
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, test_cases
from o1jax.prompts.task import Style
from o1jax.prompts.test_cases import Case
from o1jax.records import Problem, TestCase


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
    """The well-formed cases of all answers in order (equal ones stay), why others were dropped, and how
    many were asked for."""

    cases: tuple[TestCase, ...]
    dropped: tuple[str, ...]
    asked: int
    generated_tokens: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """One answer: its well-formed cases with their traces, why others were dropped, its tokens."""

    cases: tuple[Case, ...]
    dropped: tuple[str, ...]
    tokens: int


async def write_answers(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    source: str | None,
    settings: WriteSettings,
    seed: int,
) -> list[Answer]:
    """settings.answers answers about `problem`, under the program `source` or (None) the question only.

    A case that the token limit cuts short is dropped. InputError if the prompt does not fit.
    """
    messages = test_cases.messages(problem, source, traced=settings.traced, style=settings.style)
    request = Request(
        prompt_ids=chat.render(tokenizer, messages),
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
    parsed = test_cases.parse_answer(completion.text, problem.form)
    cases, dropped = parsed.cases, parsed.dropped
    if completion.finish_reason == "length":
        cases, dropped = cases[:-1], (*dropped, "cut short")
    return Answer(cases, dropped, len(completion.token_ids))


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
        asked=test_cases.CASES * settings.answers,
        generated_tokens=sum(answer.tokens for answer in answers),
    )
