"""Generated test cases and what they are worth: the gate before they judge anything (README.md, D6).

Needs a reference program; without one, selection.py picks cases by agreement. Makes no mutants
(problems/mutants.py) and parses no model's answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Sequence

from o1jax.records import CaseResult, Form, InputError, Problem, Status, TestCase
from o1jax.sandbox.interface import Judge, Limits, job_of
from o1jax.sandbox.literals import parsed

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
