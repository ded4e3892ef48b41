"""Sampling test cases from a test-case generator: answers, parsed into cases.

Does not say which cases are true (gate.py does).
"""

from __future__ import annotations

import dataclasses

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from o1jax.engine.interface import Completion, Engine, Request
from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat
from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.fence import Style
from o1jax.records import Form, Problem, TestCase
from o1jax.stages.workers import Workers
from o1jax.tcg.prompt import CASES, Parsed, messages, parse_answer, without_last


@dataclasses.dataclass(frozen=True)
class WriteSettings:
    """How a generator is sampled."""

    answers: PositiveInt = 4  # a problem, of three cases each
    traced: bool = False  # as the generator was trained
    temperature: NonNegativeFloat = 0.8  # this and the next two as in the paper's search
    top_p: NonNegativeFloat = 0.95
    top_k: NonNegativeInt = 40  # 0: no limit
    max_tokens: PositiveInt = 1024  # of an answer
    style: Style = "full"  # as the generator was trained
    few_shot: bool = False  # a worked example in the prompt, for one that was not trained


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written about a problem."""

    cases: tuple[TestCase, ...]  # the well-formed ones of all answers in order; equal ones stay
    dropped: tuple[str, ...]  # why other text was
    asked: int  # cases that were asked for
    generated_tokens: int
    long_prompts: int = 0  # 1 where the prompt filled the engine's context: then nothing was asked


def request_for(
    tokenizer: Tokenizer, problem: Problem, source: str | None, settings: WriteSettings, seed: int
) -> Request:
    """Asks for settings.answers answers about `problem`, under the program `source` or (None) the question
    only."""
    shape = {"traced": settings.traced, "style": settings.style, "few_shot": settings.few_shot}
    asking = messages(problem, source, **shape)
    return Request(
        prompt_ids=chat.render(tokenizer, asking),
        n=settings.answers,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        seed=seed,
        reuse_prefix=False,  # a prompt is asked once: its keys would only push out others'
    )


async def sample(engine: Engine, request: Request) -> list[Completion]:
    """The answers to a request; none where its prompt fills the engine's context."""
    if len(request.prompt_ids) >= engine.max_context:
        return []
    (completions,) = await engine.generate([request])
    return completions


def parse_completion(completion: Completion, form: Form) -> Parsed:
    """The cases of an answer, without the one in which the token limit may have cut it short."""
    if completion.finish_reason != "length":
        return parse_answer(completion.text, form)
    # That one may look whole and be false for it: "14" cut short is "1".
    parsed = parse_answer(without_last(completion.text), form)
    return Parsed(parsed.cases, (*parsed.dropped, "cut short"))


async def write_cases(
    workers: Workers, problem: Problem, source: str | None, settings: WriteSettings, seed: int
) -> Written:
    """The cases of all answers about `problem`, under the program `source` or (None) the question only; none
    in assertion form, of which no case could judge."""
    if problem.form == "assertion":
        return Written((), (), asked=0, generated_tokens=0)
    seed = fold_seed(seed, problem.id, "write_cases")
    request = request_for(workers.tokenizer, problem, source, settings, seed)
    completions = await sample(workers.engine, request)
    answers = [parse_completion(completion, problem.form) for completion in completions]
    return Written(
        cases=tuple(case.test for answer in answers for case in answer.cases),
        dropped=tuple(why for answer in answers for why in answer.dropped),
        asked=CASES * len(answers),
        generated_tokens=sum(len(completion.token_ids) for completion in completions),
        long_prompts=int(not answers),
    )
