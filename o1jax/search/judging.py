"""A program's terminal value and the verdict that a tree or a rollout keeps.

Seconds and memory addresses are not kept: they differ from run to run, and equal seeds must give equal
records.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from o1jax.records import InputError, Problem, TestCase, Verdict
from o1jax.rewards.outcome import outcome
from o1jax.sandbox.interface import Judge, Limits

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
