"""Sampling test cases from a test-case generator: answers, parsed into cases.

Does not say which cases are true (rewards/generated_tests.py does) and keeps no trace.
"""

from __future__ import annotations

import dataclasses

from transformers import PreTrainedTokenizerBase

from o1jax.engine.interface import Engine, Request
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat, test_cases
from o1jax.prompts.task import Style
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


async def write_cases(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    problem: Problem,
    source: str | None,
    settings: WriteSettings,
    seed: int,
) -> Written:
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
    cases: list[TestCase] = []
    dropped: list[str] = []
    for completion in completions:
        parsed = test_cases.parse_answer(completion.text, problem.form)
        kept = parsed.cases
        if completion.finish_reason == "length":
            kept, dropped = kept[:-1], [*dropped, "cut short"]
        cases += [case.test for case in kept]
        dropped += parsed.dropped
    return Written(
        tuple(cases),
        tuple(dropped),
        test_cases.CASES * settings.answers,
        sum(len(completion.token_ids) for completion in completions),
    )
