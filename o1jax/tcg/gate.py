"""Generated test cases and what they are worth: the gate before they judge anything (README.md, D6).

Needs a reference program; without one, selection.py picks cases by agreement. Makes no mutants
(problems/mutants.py) and parses no model's answer.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence

from o1jax.concurrency import run_in_order
from o1jax.parallel.seeds import fold_seed
from o1jax.records import CaseResult, Form, InputError, Problem, Status, TestCase
from o1jax.sandbox.interface import Judge, Limits, job_of
from o1jax.sandbox.literals import parsed
from o1jax.stages.workers import Workers
from o1jax.tcg.mutants import mutants, parses
from o1jax.tcg.writing import WriteSettings, Written, write_cases

EMPTY_OUTPUTS = frozenset({"", "0", "None", "[]", "()", "{}", "set()", "''", '""'})


@dataclasses.dataclass(frozen=True)
class Gated:
    """`kept` may judge; `fates`, aligned with the cases that came in, are "kept", "false", "duplicate" or
    "kills nothing"."""

    kept: tuple[TestCase, ...]
    fates: tuple[str, ...]


async def true_cases(
    judge: Judge, problem: Problem, source: str, cases: Sequence[TestCase], limits: Limits
) -> list[bool]:
    """true_C: whether the reference program `source` gives each case's output on its input.

    A malformed case (no literal, no list of arguments, no assert statement) is False. Each case is a job
    of its own, so that one on which the reference runs for ever says nothing of the others. Raises
    SandboxError where the infrastructure failed.
    """
    return list(await asyncio.gather(*(_is_true(judge, problem, source, case, limits) for case in cases)))


async def killed(
    judge: Judge, problem: Problem, programs: Sequence[str], cases: Sequence[TestCase], limits: Limits
) -> list[list[bool]]:
    """killed_R_C of R programs: True where a program fails a case.

    Raises InputError on a malformed case (pass true ones) and SandboxError.
    """
    rows = (_fails(judge, problem, source, cases, limits) for source in programs)
    return list(await asyncio.gather(*rows))


async def wrong_mutants(
    judge: Judge, problem: Problem, mutants: Sequence[str], tests: Sequence[TestCase], limits: Limits
) -> list[str]:
    """The mutants that fail at least one of `tests`, in order: the rest may do what the reference does.

    Raises ValueError without tests, InputError on a malformed test, and SandboxError.
    """
    if not tests:
        raise ValueError(f"{problem.id}: no tests to tell mutants from the reference; pass at least one")
    wrong = await asyncio.gather(*(_is_killed(judge, problem, m, tests, limits) for m in mutants))
    return [mutant for mutant, is_wrong in zip(mutants, wrong, strict=True) if is_wrong]


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
    empty and those cases' fate is "kills nothing": skip the problem, and count it. SandboxError is raised.
    """
    true_C = await true_cases(judge, problem, reference, cases, limits)
    fates = _fates(problem.form, cases, true_C)
    kept = tuple(case for case, fate in zip(cases, fates, strict=True) if fate == "kept")
    for mutant in mutants if kept else ():
        if await _is_killed(judge, problem, mutant, kept, limits):
            return Gated(kept, fates)
    return Gated((), tuple("kills nothing" if fate == "kept" else fate for fate in fates))


def distinct(cases: Iterable[TestCase], form: Form = "stdin") -> list[TestCase]:
    """The first case of each input. Trailing blanks do not set inputs apart, nor, in call form, does the
    way a literal is written."""
    first: dict[str, TestCase] = {}
    for case in cases:
        first.setdefault(_input_key(case, form), case)
    return list(first.values())


def is_degenerate(problem: Problem, case: TestCase) -> bool:
    """Whether the output is empty or what a constant program would give: nothing, 0, None, an empty text
    or an empty collection, as text or as a literal. Never in assertion form, where it is in the input."""
    return problem.form != "assertion" and case.output.strip() in EMPTY_OUTPUTS


def _fates(form: Form, cases: Sequence[TestCase], true_C: Sequence[bool]) -> tuple[str, ...]:
    """Truth is asked first: a false case must not make a true one of the same input a duplicate."""
    firsts = {id(case) for case in distinct((c for c, true in zip(cases, true_C, strict=True) if true), form)}
    fates = []
    for case, true in zip(cases, true_C, strict=True):
        fates.append("false" if not true else "kept" if id(case) in firsts else "duplicate")
        firsts.discard(id(case))  # the same object may come twice
    return tuple(fates)


def _input_key(case: TestCase, form: Form) -> str:
    if form == "call":
        try:
            return repr(parsed(case.input))
        except (InputError, ValueError):  # malformed, or an integer of too many digits for repr
            return case.input
    return "\n".join(line.rstrip() for line in case.input.splitlines())


async def _is_true(judge: Judge, problem: Problem, source: str, case: TestCase, limits: Limits) -> bool:
    try:
        return (await judge.judge(job_of(problem, source, [case], limits))).passed
    except InputError:  # malformed: the judge says so before anything is run
        return False


async def _is_killed(
    judge: Judge, problem: Problem, source: str, tests: Sequence[TestCase], limits: Limits
) -> bool:
    job = dataclasses.replace(job_of(problem, source, tests, limits), stop_at_failure=True)
    return not (await judge.judge(job)).passed


async def _fails(
    judge: Judge, problem: Problem, source: str, cases: Sequence[TestCase], limits: Limits
) -> list[bool]:
    """Outside stdin form one execution answers all cases, so after a time limit each is asked alone."""
    results: Sequence[CaseResult] = (await judge.judge(job_of(problem, source, cases, limits))).cases
    if problem.form != "stdin" and any(case.status is Status.TLE for case in results):
        alone = (judge.judge(job_of(problem, source, [case], limits)) for case in cases)
        results = [verdict.cases[0] for verdict in await asyncio.gather(*alone)]
    return [not case.passed for case in results][: len(cases)]


# Test cases written for problems by a generator, and gated: what write_tests and evaluate_tcg share.
#
# Needs problems with a reference program. Keeps nothing on disk.

TestsOf = Callable[[Problem], Sequence[TestCase]]  # those of a problem by which a mutant is known


@dataclasses.dataclass(frozen=True)
class GateSettings:
    """`mutants`: how many of the reference program are made; those that the problem's tests (write_and_gate's
    `tests_of`) tell from it count. `concurrency`: problems at once."""

    mutants: int = 12
    concurrency: int = 64
    limits: Limits = Limits()


@dataclasses.dataclass(frozen=True)
class WrittenTests:
    """One problem: what was written under its first reference program, what of it may judge, and the
    wrong mutants that it was measured by."""

    problem: Problem
    written: Written
    gated: Gated
    mutants: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class WrittenCase:
    """A generated case as it is kept: `fate` is "kept" or why it may not judge."""

    problem_id: str
    input: str
    output: str
    fate: str


async def write_and_gate(
    workers: Workers,
    problems: Sequence[Problem],
    tests_of: TestsOf,
    write: WriteSettings,
    gating: GateSettings,
    seed: int,
) -> list[WrittenTests]:
    """Cases for every problem that is not `unfit`, in their order. InputError, before anything is sampled,
    for a problem in assertion form, or where all are unfit."""
    for problem in problems:
        if problem.form == "assertion":
            raise InputError(f"problem {problem.id}: form 'assertion' has no inputs to write; leave it out")
    fit = [problem for problem in problems if not unfit(problem, tests_of)]
    if problems and not fit:
        raise InputError(
            f"problem {problems[0].id}: needs a reference program and tests to gate generated ones by; of "
            f"{len(problems)} problems all are unfit: {unfit_counts(problems, tests_of)}"
        )

    async def one(problem: Problem) -> WrittenTests:
        written = await write_cases(
            workers.engine, workers.tokenizer, problem, problem.solutions[0], write, seed
        )
        wrong = await known_wrong(workers.judge, problem, tests_of(problem), gating, seed)
        gated = await gate(workers.judge, problem, problem.solutions[0], wrong, written.cases, gating.limits)
        return WrittenTests(problem, written, gated, tuple(wrong))

    return await run_in_order(one, fit, gating.concurrency)


def unfit(problem: Problem, tests_of: TestsOf) -> str:
    """Why no cases are written for a problem: it has no reference program ("no_reference"), a first one that
    does not parse ("unparsable") or no tests to know a mutant by ("no_tests"). Else empty."""
    if not problem.solutions:
        return "no_reference"
    if not parses(problem.solutions[0]):
        return "unparsable"
    return "" if tests_of(problem) else "no_tests"


def unfit_counts(problems: Sequence[Problem], tests_of: TestsOf) -> dict[str, int]:
    """How many problems are unfit, by why."""
    return dict(collections.Counter(filter(None, (unfit(problem, tests_of) for problem in problems))))


async def known_wrong(
    judge: Judge, problem: Problem, tests: Sequence[TestCase], gating: GateSettings, seed: int
) -> list[str]:
    """Mutants of the first reference program that the tests tell from it."""
    made = mutants(problem.solutions[0], gating.mutants, fold_seed(seed, "mutants", problem.id))
    return await wrong_mutants(judge, problem, made, tests, gating.limits)


@dataclasses.dataclass(frozen=True)
class Tally:
    """One problem's cases before any gate; `prompt` is "program" or "question" (only)."""

    problem_id: str
    prompt: str
    asked: int
    parsed: int
    true: int
    degenerate: int
    true_not_degenerate: int
    distinct_inputs: int


async def tally(judge: Judge, problem: Problem, prompt: str, written: Written, limits: Limits) -> Tally:
    """Counts of what was written, true by the first reference program."""
    true_C = await true_cases(judge, problem, problem.solutions[0], written.cases, limits)
    degenerate_C = [is_degenerate(problem, case) for case in written.cases]
    return Tally(
        problem_id=problem.id,
        prompt=prompt,
        asked=written.asked,
        parsed=len(written.cases),
        true=sum(true_C),
        degenerate=sum(degenerate_C),
        true_not_degenerate=sum(t and not d for t, d in zip(true_C, degenerate_C, strict=True)),
        distinct_inputs=len({case.input.strip() for case in written.cases}),
    )


def fates(tests: Sequence[WrittenTests]) -> dict[str, int]:
    """How many cases met which fate; "dropped" counts what no case was read from: sections that are not well
    formed, cases too many or cut short, and text before the first."""
    counts = collections.Counter(fate for test in tests for fate in test.gated.fates)
    counts["dropped"] = sum(len(test.written.dropped) for test in tests)
    return dict(sorted(counts.items()))
