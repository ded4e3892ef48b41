"""The outcome of a program: terminal value and RL reward from the judge's verdict (README.md, D7).

Pure arithmetic around one call of the judge. Knows no process rewards (process.py's) and no
schedule of their weight (aggregate.py's).
"""

from __future__ import annotations

from collections.abc import Sequence

from o1jax.records import CaseResult, Problem, Status, TestCase, Verdict
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
