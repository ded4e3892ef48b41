"""Generated test cases and what they are worth: the gate that they pass before they judge anything (D6).

A case may judge if it is true on the reference program, the first of its input, and if the problem's cases
kill a mutant. That is a departure: the paper trusts what its generator writes (89 % valid), and of ten tests
the false one fails every right program. Needs a reference program; without one, evaluation/choice.py picks
cases by agreement. Makes no mutants and parses no model's answer; keeps nothing on disk.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from pydantic import NonNegativeInt, PositiveInt

from o1jax.concurrency import run_in_order
from o1jax.parallel.seeds import fold_seed
from o1jax.records import CaseResult, Form, InputError, Problem, Status, TestCase
from o1jax.sandbox.interface import Judge, Limits, job_of, unless_lost, verdict_of
from o1jax.sandbox.literals import parsed
from o1jax.stages.workers import Workers
from o1jax.tcg.mutants import mutants, parses
from o1jax.tcg.writing import WriteSettings, Written, write_cases
from o1jax.train.metrics import ProgressLine

# What a constant program would print or return: a case that expects it lets wrong programs pass.
EMPTY_OUTPUTS = frozenset({"", "0", "None", "[]", "()", "{}", "set()", "''", '""'})
TestsOf = Callable[[Problem], Sequence[TestCase]]  # those of a problem by which a mutant is known as wrong


@dataclasses.dataclass(frozen=True)
class GateSettings:
    """What the cases of a problem must do."""

    mutants: NonNegativeInt = 12  # made of the reference; those that the problem's tests tell from it count
    concurrency: PositiveInt = 64  # problems at once
    limits: Limits = Limits()  # of a program on one case


@dataclasses.dataclass(frozen=True)
class Gated:
    """What the gate made of cases."""

    kept: tuple[TestCase, ...]  # those that may judge
    # of each case that came in: "kept", "false", "duplicate" or "kills nothing"; "lost" where the judge lost
    # a program of the problem's
    fates: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class WrittenTests:
    """One problem's generated tests."""

    problem: Problem
    written: Written  # under its first reference program
    gated: Gated
    mutants: tuple[str, ...]  # the wrong ones that the cases were measured by


@dataclasses.dataclass(frozen=True)
class WrittenCase:
    """A generated case as a stage keeps it."""

    problem_id: str
    input: str
    output: str
    fate: str  # "kept", or why it may not judge


async def gate(
    judge: Judge,
    problem: Problem,
    reference: str,
    mutants: Sequence[str],
    cases: Sequence[TestCase],
    limits: Limits,
) -> Gated:
    """The cases that are true on the reference, once each, if one of them kills one of the mutants.

    `mutants` are programs known to be wrong (`wrong_mutants`). Where no kept case kills any, `kept` is
    empty and those cases' fate is "kills nothing": skip the problem, and count it. Raises JobLost.
    """
    true_C = await true_cases(judge, problem, reference, cases, limits)
    # Truth is asked first: a false case must not make a true one of the same input a duplicate.
    true = (case for case, is_true in zip(cases, true_C, strict=True) if is_true)
    firsts, fates = {id(case) for case in distinct(true, problem.form)}, []
    for case, is_true in zip(cases, true_C, strict=True):
        fates.append("false" if not is_true else "kept" if id(case) in firsts else "duplicate")
        firsts.discard(id(case))  # the same object may come twice
    kept = tuple(case for case, fate in zip(cases, fates, strict=True) if fate == "kept")
    # One mutant is enough: true cases on which every wrong program passes too (f([]) == []) tell nothing, and
    # rewards by them would teach that anything goes. To ask more of few cases would leave few problems.
    for mutant in mutants if kept else ():
        if await _is_killed(judge, problem, mutant, kept, limits):
            return Gated(kept, tuple(fates))
    return Gated((), tuple("kills nothing" if fate == "kept" else fate for fate in fates))


def distinct(cases: Iterable[TestCase], form: Form = "stdin") -> list[TestCase]:
    """The first case of each input. Trailing blanks do not set inputs apart, nor, in call form, does the
    way a literal is written."""
    # An input judges once: with the fraction of passed tests as a reward, its copies would weigh more.
    first: dict[str, TestCase] = {}
    for case in cases:
        first.setdefault(_input_key(case, form), case)
    return list(first.values())


def _input_key(case: TestCase, form: Form) -> str:
    if form == "call":
        try:
            return repr(parsed(case.input))
        except (InputError, ValueError):  # malformed, or an integer of too many digits for repr
            return case.input
    return "\n".join(line.rstrip() for line in case.input.splitlines())


def is_degenerate(problem: Problem, case: TestCase) -> bool:
    """Whether the output is empty or what a constant program would give: nothing, 0, None, an empty text
    or an empty collection, as text or as a literal. Never in assertion form, where it is in the input."""
    return problem.form != "assertion" and case.output.strip() in EMPTY_OUTPUTS


# What a program says of cases, through the judge.


async def true_cases(
    judge: Judge, problem: Problem, source: str, cases: Sequence[TestCase], limits: Limits
) -> list[bool]:
    """true_C: whether the reference program `source` gives each case's output on its input.

    A malformed case (no literal, no list of arguments, no assert statement) is False. Raises JobLost.
    """

    async def is_true(case: TestCase) -> bool:
        try:
            return (await verdict_of(judge, job_of(problem, source, [case], limits))).passed
        except InputError:  # malformed: the judge says so before anything is run
            return False

    # A job a case, so that one on which the reference runs for ever says nothing of the others.
    return list(await asyncio.gather(*map(is_true, cases)))


async def killed(
    judge: Judge, problem: Problem, programs: Sequence[str], cases: Sequence[TestCase], limits: Limits
) -> list[list[bool]]:
    """killed_R_C of R programs: True where a program fails a case.

    Raises InputError on a malformed case (pass true ones) and JobLost.
    """

    async def fails(source: str) -> list[bool]:
        results: Sequence[CaseResult] = (
            await verdict_of(judge, job_of(problem, source, cases, limits))
        ).cases
        # Outside stdin form one execution answers all cases, so after a time limit each is asked alone.
        if problem.form != "stdin" and any(case.status is Status.TLE for case in results):
            alone = (verdict_of(judge, job_of(problem, source, [case], limits)) for case in cases)
            results = [verdict.cases[0] for verdict in await asyncio.gather(*alone)]
        return [not case.passed for case in results][: len(cases)]

    return list(await asyncio.gather(*map(fails, programs)))


async def wrong_mutants(
    judge: Judge, problem: Problem, mutants: Sequence[str], tests: Sequence[TestCase], limits: Limits
) -> list[str]:
    """The mutants that fail at least one of `tests`, in order: the rest may do what the reference does.

    Raises ValueError without tests, InputError on a malformed test, and JobLost.
    """
    if not tests:
        raise ValueError(f"{problem.id}: no tests to tell mutants from the reference; pass at least one")
    wrong = await asyncio.gather(*(_is_killed(judge, problem, m, tests, limits) for m in mutants))
    return [mutant for mutant, is_wrong in zip(mutants, wrong, strict=True) if is_wrong]


async def _is_killed(
    judge: Judge, problem: Problem, source: str, tests: Sequence[TestCase], limits: Limits
) -> bool:
    job = dataclasses.replace(job_of(problem, source, tests, limits), stop_at_failure=True)
    return not (await verdict_of(judge, job)).passed


# Cases written for problems, and gated: what write_tests.py and evaluate.py share.


async def write_and_gate(
    workers: Workers,
    problems: Sequence[Problem],
    tests_of: TestsOf,
    write: WriteSettings,
    gating: GateSettings,
    seed: int,
) -> list[WrittenTests]:
    """Cases for every problem that is not `unfit`, in their order. InputError, before anything is sampled,
    where all are unfit."""
    fit = [problem for problem in problems if not unfit(problem, tests_of)]
    if problems and not fit:
        raise InputError(
            f"problem {problems[0].id}: needs a reference program and tests to gate generated ones by, in a "
            "form with inputs (check_problems.calls puts most of assertion form into call form); "
            f"of {len(problems)} problems all are unfit: {unfit_counts(problems, tests_of)}"
        )

    async def one(problem: Problem) -> WrittenTests:
        judge, reference = workers.judge, problem.solutions[0]
        written = await write_cases(workers, problem, reference, write, seed)
        made = mutants(reference, gating.mutants, fold_seed(seed, "mutants", problem.id))
        lost = Gated((), ("lost",) * len(written.cases))
        # A mutant that passes the problem's tests may do what the reference does, and no true case kills it.
        telling = wrong_mutants(judge, problem, made, tests_of(problem), gating.limits)
        wrong = await unless_lost(telling, None)
        if wrong is None:
            return WrittenTests(problem, written, lost, ())
        gated = await unless_lost(gate(judge, problem, reference, wrong, written.cases, gating.limits), lost)
        return WrittenTests(problem, written, gated, tuple(wrong))

    return await run_in_order(one, fit, gating.concurrency, ended=ProgressLine("write tests", len(fit)).count)


def unfit(problem: Problem, tests_of: TestsOf) -> str:
    """Why no cases are written for a problem: its form has no inputs ("assertion"), it has no reference
    program ("no_reference"), a first one that does not parse ("unparsable") or no tests to know a mutant by
    ("no_tests"). Else empty."""
    if problem.form == "assertion":
        return "assertion"
    if not problem.solutions:
        return "no_reference"
    if not parses(problem.solutions[0]):
        return "unparsable"
    return "" if tests_of(problem) else "no_tests"


def unfit_counts(problems: Sequence[Problem], tests_of: TestsOf) -> dict[str, int]:
    """How many problems are unfit, by why."""
    return dict(collections.Counter(filter(None, (unfit(problem, tests_of) for problem in problems))))


def fates(tests: Sequence[WrittenTests]) -> dict[str, int]:
    """How many cases met which fate; "dropped" counts what no case was read from: sections that are not well
    formed, cases too many or cut short, and text before the first."""
    counts = collections.Counter(fate for test in tests for fate in test.gated.fates)
    counts["dropped"] = sum(len(test.written.dropped) for test in tests)
    return dict(sorted(counts.items()))
