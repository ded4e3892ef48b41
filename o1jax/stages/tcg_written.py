"""Test cases written for problems by a generator, and gated: what write_tests and evaluate_tcg share.

Needs problems with a reference program. Keeps nothing on disk.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

from o1jax.parallel.seeds import fold_seed
from o1jax.problems.mutants import mutants, parses
from o1jax.records import InputError, Problem, TestCase
from o1jax.rewards.generated_tests import Gated, gate, is_degenerate, true_cases, wrong_mutants
from o1jax.sandbox.interface import Judge, Limits
from o1jax.search.bounded import run_in_order
from o1jax.search.test_writing import WriteSettings, Written, write_cases
from o1jax.stages.workers import Workers

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
