"""What an answer is worth: the tests that judge it, its verdict, its value in search and its outcome in RL.

The only place where a verdict becomes a number (D7): search, sampling, evaluation and RL all call it. Knows
no process rewards (phi.py), and runs no program itself (sandbox/).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Literal

from o1jax.prompts.extraction import with_starter
from o1jax.records import InputError, Problem, Rollout, TestCase, Verdict
from o1jax.sandbox.interface import Judge, Limits, job_of

Outcome = Literal["all", "fraction"]
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


def search_tests(problem: Problem) -> tuple[TestCase, ...]:
    """The tests that judge search and RL: the problem's own, never the hidden ones; InputError without."""
    if not problem.tests:
        raise InputError(f"problem {problem.id} has no tests: search cannot judge it; leave it out")
    return problem.tests


def final_tests(problem: Problem) -> tuple[TestCase, ...]:
    """The tests that count in an evaluation."""
    # A published set may have no hidden tests. Its own ones then count; nothing was trained on them, for
    # evaluation problems are never those of training.
    return problem.hidden_tests or problem.tests


async def judge_program(
    judge: Judge, problem: Problem, program: str, tests: Sequence[TestCase], limits: Limits
) -> Verdict:
    """The verdict on `program` that a record keeps; `lost` where the infrastructure failed on it alone.

    Raises ValueError without tests, SandboxError (it failed too often) and InputError (a malformed test).
    """
    # A verdict on no tests would say that nothing failed, and nothing that something passed.
    if not tests:
        raise ValueError(f"{problem.id} has no tests to judge by; pass at least one")
    # A program that search or a reference gives may lean on the starter code too; others have it already.
    source = with_starter(program, problem)
    verdict = await judge.judge(job_of(problem, source, tests, limits))
    # Seconds and memory addresses differ from run to run, and equal seeds must give equal records (D2).
    cases = (
        dataclasses.replace(case, cpu_s=0.0, detail=ADDRESS.sub("0x", case.detail)) for case in verdict.cases
    )
    return dataclasses.replace(verdict, cases=tuple(cases))


def terminal_value(verdict: Verdict | None, compile_weight: float) -> float:
    """v = compile_weight * compile + (1 - compile_weight) * pass, in [0, 1], which search backs up.

    None is a path without a program: 0. ValueError for a weight outside [0, 1], and as in `outcome_of`.
    """
    if not 0.0 <= compile_weight <= 1.0:
        raise ValueError(f"compile_weight is {compile_weight}; it must lie in [0, 1]")
    if verdict is None:
        return 0.0
    _refuse_lost(verdict)
    # The pass rate, not all or nothing: early on hardly a program passes, and search needs a slope to climb.
    return compile_weight * verdict.compiled + (1.0 - compile_weight) * verdict.pass_rate


def outcome_of(verdict: Verdict | None, kind: Outcome = "all") -> float:
    """R in [0, 1]: 1 only if every test passes ("all"), or the share that passes ("fraction").

    None is an answer from which no program could be read: 0. ValueError for a verdict that the
    infrastructure failed to give: never a reward.
    """
    if verdict is None:
        return 0.0
    _refuse_lost(verdict)
    # All or nothing is the default: with a fraction, printing the most frequent answer pays.
    return verdict.pass_rate if kind == "fraction" else float(verdict.passed)


def is_lost(rollouts: Sequence[Rollout]) -> bool:
    """Whether the judge lost one of a problem's answers: then nothing is said of the problem."""
    return any(rollout.verdict is not None and rollout.verdict.lost for rollout in rollouts)


def share_passed(rollouts: Sequence[Rollout]) -> float:
    """The share of a problem's answers that pass, in [0, 1]; NaN where it `is_lost`."""
    return math.nan if is_lost(rollouts) else sum(rollout.reward for rollout in rollouts) / len(rollouts)


def _refuse_lost(verdict: Verdict) -> None:
    # It would count as a failed test, and teach the policy that a machine was busy.
    if verdict.lost:
        raise ValueError("a verdict with a sandbox error has no outcome; judge that program again")
