"""What a test-case generator learns from: true cases of problems, in sets of three under one prompt.

Cases are a problem's tests, run on its own reference programs in the sandbox. Departures from O1-CODER, which
takes a problem's tests and solutions as they come: a case is learned only under a program that gives its
output, cases with an empty or constant output are left out, and a program's trace can be learned with them. A
stage keeps the sets that it drew. Trains nothing.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import random
from collections.abc import Iterator, Sequence
from typing import Annotated

from etils import epath
from pydantic import Field, PositiveInt

from o1jax.parallel.seeds import fold_seed
from o1jax.prompts import chat
from o1jax.prompts.ends import end_ids
from o1jax.prompts.fence import Style
from o1jax.records import InputError, Problem, Status
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.graders import grade_stdout, same_value
from o1jax.sandbox.interface import Judge, Limits, unless_lost
from o1jax.sandbox.jail import values
from o1jax.sandbox.literals import parsed
from o1jax.stages.together import made_once
from o1jax.tcg import prompt
from o1jax.tcg.gate import is_degenerate
from o1jax.tcg.mutants import parses
from o1jax.tcg.prompt import CASES, Case
from o1jax.tcg.traces import traced_cases

Solution = tuple[str, tuple[Case, ...]]  # a program and its cases: true, of different inputs, renderable


@dataclasses.dataclass(frozen=True)
class CaseSettings:
    """Which cases are learned, and under which prompt."""

    sets: PositiveInt = 8  # of three cases a problem, each under one of its programs
    max_solutions: PositiveInt = 30  # programs of a problem, its first ones; the paper's number
    question_only: Annotated[float, Field(ge=0, le=1)] = 0.0  # share of sets whose prompt shows no program
    traced: bool = False  # whether answers hold the trace too
    keep_degenerate: bool = False  # whether cases stay whose output is empty, zero or the like
    style: Style = "full"
    judge_slots: PositiveInt = 2  # programs at once
    limits: Limits = Limits()  # of a program on one case


@dataclasses.dataclass(frozen=True)
class CaseSet:
    """Three cases to learn under one prompt."""

    id: str  # <problem id>#<number>
    problem: Problem
    source: str  # the program that gives the cases
    shown: bool  # whether the prompt shows it
    cases: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Sets:
    """All sets of a stage."""

    sets: tuple[CaseSet, ...]
    problems: int  # that have one
    # cases, programs and problems by why they are not learned, and "problems_without" any
    dropped: dict[str, int]


@dataclasses.dataclass(frozen=True)
class KeptSet:
    """A CaseSet as a stage keeps it: its problem by id."""

    id: str
    problem_id: str
    source: str
    shown: bool
    cases: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Lost:
    """An entry of Sets.dropped as a stage keeps it."""

    why: str
    count: int


def kept_sets(out: epath.Path, problems: Sequence[Problem], settings: CaseSettings, seed: int) -> Sets:
    """`make_sets`, made once by process 0 and kept in the stage's directory `out`. Raises OtherFailed."""
    # Once, for what a program does within a time limit may be another thing the next time: a stage that was
    # killed, or another process of it, would go on with other sets.
    made = functools.cache(lambda: make_sets(problems, settings, seed))
    lost = made_once(out / "lost.parquet", Lost, lambda: [Lost(why, n) for why, n in made().dropped.items()])
    kept = made_once(
        out / "sets.parquet",
        KeptSet,
        lambda: [KeptSet(s.id, s.problem.id, s.source, s.shown, s.cases) for s in made().sets],
    )
    of_id = {problem.id: problem for problem in problems}
    sets = tuple(CaseSet(s.id, of_id[s.problem_id], s.source, s.shown, s.cases) for s in kept)
    return Sets(sets, len({s.problem_id for s in kept}), {one.why: one.count for one in lost})


def make_sets(problems: Sequence[Problem], settings: CaseSettings, seed: int) -> Sets:
    """Sets of the problems that have a program with three cases, in their order."""

    async def ask() -> list[tuple[list[Solution], collections.Counter]]:
        async with ForkJudge(slots=settings.judge_slots) as judge:
            return await asyncio.gather(*(_solutions(judge, problem, settings) for problem in problems))

    sets, dropped = [], collections.Counter()
    for problem, (solutions, lost) in zip(problems, asyncio.run(ask()), strict=True):
        dropped += lost
        dropped["problems_without"] += not solutions
        if solutions:
            sets += [_draw(problem, solutions, settings, seed, i) for i in range(settings.sets)]
    return Sets(tuple(sets), len({s.problem.id for s in sets}), dict(dropped))


async def _solutions(
    judge: Judge, problem: Problem, settings: CaseSettings
) -> tuple[list[Solution], collections.Counter]:
    """The programs with at least three cases to learn, and why cases, programs or the problem were lost."""
    solutions, lost = [], collections.Counter()
    if problem.form == "assertion":  # its tests have no inputs to learn
        return [], collections.Counter(assertion=1)
    # Of equal inputs the last test's output is the stated one; two cases of one input would not be a set.
    stated = {test.input: test.output for test in problem.tests}
    for source in problem.solutions[: settings.max_solutions]:
        if not parses(source):
            lost["unparsable"] += 1
            continue
        tracing = traced_cases(judge, problem, source, list(stated), settings.limits)
        cases = await unless_lost(tracing, None)
        if cases is None:
            lost["judge"] += 1
            continue
        faults = [_fault(problem, case, stated, settings) for case in cases]
        lost.update(filter(None, faults))
        kept = [prompt.canonical(c, problem.form) for c, why in zip(cases, faults, strict=True) if not why]
        if len(kept) >= CASES:
            solutions.append((source, tuple(kept)))
    return solutions, lost


def _fault(problem: Problem, case: Case | None, stated: dict[str, str], settings: CaseSettings) -> str | None:
    """Why a case is not learned from, or None."""
    if case is None:
        return "no_output"
    if not _agrees(problem, case.test.output, stated[case.test.input]):
        return "false"
    # A generator that learns them writes inputs on which every program agrees, such as an empty list.
    if not settings.keep_degenerate and is_degenerate(problem, case.test):
        return "degenerate"
    return None if prompt.is_renderable(case, problem.form) else "not_renderable"


def _agrees(problem: Problem, said: str, stated: str) -> bool:
    """Whether the judge takes what a program says for the test's output."""
    if problem.form == "stdin":
        output = said.encode("utf-8", "surrogatepass")  # which the judge refuses
        return grade_stdout(problem.grader, stated, output)[0] in (Status.AC, Status.PE)
    try:
        got, wanted = values.encode(parsed(said)), parsed(stated)
        return same_value(problem.grader, wanted, got, json_values=problem.json_values)
    except InputError:  # no literal
        return False


def _draw(
    problem: Problem, solutions: Sequence[Solution], settings: CaseSettings, seed: int, number: int
) -> CaseSet:
    rng = random.Random(fold_seed(seed, "case_set", problem.id, number))
    source, cases = rng.choice(solutions)
    shown = rng.random() >= settings.question_only
    return CaseSet(f"{problem.id}#{number}", problem, source, shown, tuple(rng.sample(cases, CASES)))


def texts(sets: Sequence[CaseSet], settings: CaseSettings) -> Iterator[str]:
    """What a tokenizer for these sets is trained on."""
    for case_set in sets:
        yield _messages(case_set, settings)[0]["content"]
        yield prompt.render_answer(case_set.cases, case_set.problem.form, traced=settings.traced)


def prompt_ids(case_set: CaseSet, tokenizer: chat.Tokenizer, settings: CaseSettings) -> tuple[int, ...]:
    """The prompt under which a set is learned."""
    return chat.render(tokenizer, _messages(case_set, settings))


def _messages(case_set: CaseSet, settings: CaseSettings) -> tuple[chat.Message, ...]:
    source = case_set.source if case_set.shown else None
    return prompt.messages(case_set.problem, source, traced=settings.traced, style=settings.style)


def answer_ids(
    cases: Sequence[Case], problem: Problem, tokenizer: chat.Tokenizer, settings: CaseSettings
) -> tuple[int, ...]:
    """The answer about `problem` that gives these cases, ending as trained answers do."""
    text = prompt.render_answer(cases, problem.form, traced=settings.traced)
    return (*chat.encode(tokenizer, text), end_ids(tokenizer)[0])
