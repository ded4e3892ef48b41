"""The outcome of a program: terminal value and RL reward from the judge's verdict (README.md, D7).

Pure arithmetic around one call of the judge. Knows no process rewards (process.py's) and no
schedule of their weight (aggregate.py's).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

from o1jax.records import CaseResult, InputError, Problem, Status, TestCase, Verdict
from o1jax.sandbox.interface import Judge, Limits, job_of


async def outcome(
    judge: Judge,
    problem: Problem,
    source: str | None,
    tests: Sequence[TestCase],
    compile_weight: float,
    limits: Limits,
) -> tuple[float, Verdict]:
    """(terminal value in [0, 1], verdict) of `source` on `tests` of `problem`.

    `source` None says that no program could be parsed: value 0 and a CE verdict, nothing is run.
    Raises SandboxError (the infrastructure failed: not a value) and InputError (a malformed test).
    """
    if not tests:
        raise ValueError(f"{problem.id} has no tests to judge by; pass at least one")
    if source is None:
        return 0.0, Verdict(False, (CaseResult(Status.CE, "no program"),) * len(tests), judge.isolation)
    verdict = await judge.judge(job_of(problem, source, tests, limits))
    return terminal_value(verdict, compile_weight), verdict


def terminal_value(verdict: Verdict, compile_weight: float) -> float:
    """v = compile_weight * compile + (1 - compile_weight) * pass, in [0, 1]."""
    if not 0.0 <= compile_weight <= 1.0:
        raise ValueError(f"compile_weight is {compile_weight}; it must lie in [0, 1]")
    return compile_weight * verdict.compiled + (1.0 - compile_weight) * verdict.pass_rate


def rl_outcome(verdict: Verdict, fraction: bool = False) -> float:
    """R of RL: 1 only if every test passes; with `fraction`, the share of tests that pass."""
    return verdict.pass_rate if fraction else float(verdict.passed)


# A program's terminal value and the verdict that a tree or a rollout keeps.
#
# Seconds and memory addresses are not kept: they differ from run to run, and equal seeds must give equal
# records.

ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


async def judge_program(
    judge: Judge,
    problem: Problem,
    program: str,
    tests: Sequence[TestCase],
    compile_weight: float,
    limits: Limits,
) -> tuple[float, Verdict]:
    """`rewards.outcome.outcome` with cpu_s = 0 and no address in any case."""
    value, verdict = await outcome(judge, problem, program, tests, compile_weight, limits)
    cases = (
        dataclasses.replace(case, cpu_s=0.0, detail=ADDRESS.sub("0x", case.detail)) for case in verdict.cases
    )
    return value, dataclasses.replace(verdict, cases=tuple(cases))


def search_tests(problem: Problem) -> tuple[TestCase, ...]:
    """The tests that judge search: the problem's own, never the hidden ones."""
    if not problem.tests:
        raise InputError(f"problem {problem.id} has no tests: search cannot judge it; leave it out")
    return problem.tests


def outcome_of(verdict: Verdict | None, kind: Outcome) -> float:
    """R in [0, 1]; None, an answer from which no program could be read, is 0.

    ValueError for a verdict that the infrastructure failed to give: never a reward.
    """
    if verdict is None:
        return 0.0
    if any(case.status is Status.SANDBOX_ERROR for case in verdict.cases):
        raise ValueError("a verdict with a sandbox error has no outcome; judge that program again")
    return rl_outcome(verdict, fraction=kind == "fraction")


Outcome = Literal["all", "fraction"]


def final_tests(problem: Problem) -> tuple[TestCase, ...]:
    """The tests that count in an evaluation."""
    return problem.hidden_tests or problem.tests
