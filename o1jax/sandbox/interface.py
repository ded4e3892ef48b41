"""What every judge promises: untrusted source and tests in, a Verdict out.

Holds the types and the Protocol only. Knows nothing of models.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from o1jax.records import Form, Problem, TestCase, Verdict

T = TypeVar("T")
LEAST_S, LEAST_MB = 0.01, 4  # of time and memory, below which no program could keep a limit


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one program on one test. Raises ValueError for one that is not finite or not above 0."""

    cpu_s: float = 2.0  # in call form loading the program counts to the first test
    # Of a program that waits. One that still wants the processor then goes on, to 16 times this: its CPU time
    # decides, and a busy machine changes no verdict.
    wall_s: float = 8.0
    memory_mb: int = 512  # MiB, beside what the interpreter and its packages take
    output_bytes: int = 1 << 20  # of standard output or a returned value; more where a test expects more

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"limits: saw {name} {value!r}, wanted a finite number above 0")


@dataclasses.dataclass(frozen=True)
class Job:
    """One program and its tests."""

    source: str  # the program, which nobody trusts
    tests: tuple[TestCase, ...]
    form: Form
    entry_point: str = ""  # the function that tests call
    setup: str = ""  # code that tests need beside the program
    prelude: str = ""  # trusted code that runs before the program, whose own names win
    json_values: bool = True  # whether values came through JSON, so that a tuple equals a list
    limits: Limits = Limits()
    # Tests after the first failure carry the status NORESULT with detail "not run". In form stdin they are
    # indeed not run; the other forms run all tests in one execution.
    stop_at_failure: bool = False
    keep_output: bool = False  # form stdin: results carry what the program printed, if it ended well
    # "" is this sandbox's own strict comparison; the others (graders.py) are for problems that need one, or
    # for parity with a data set's own grader.
    grader: str = ""
    name: str = dataclasses.field(default="", compare=False)  # whose it is, for messages


def job_of(problem: Problem, source: str, tests: Sequence[TestCase], limits: Limits) -> Job:
    """The job of `source` on `tests` of `problem`; the problem's own limits, if any, win."""
    if problem.time_limit_s:
        limits = dataclasses.replace(
            limits, cpu_s=problem.time_limit_s, wall_s=max(limits.wall_s, 4 * problem.time_limit_s)
        )
    if problem.memory_limit_mb:
        limits = dataclasses.replace(limits, memory_mb=problem.memory_limit_mb)
    return Job(
        source=source,
        tests=tuple(tests),
        form=problem.form,
        entry_point=problem.entry_point,
        setup=problem.setup,
        prelude=problem.prelude,
        json_values=problem.json_values,
        limits=limits,
        grader=problem.grader,
        name=problem.id,
    )


class Judge(Protocol):
    """Awaitable by many coroutines at once: as many jobs run as there are slots, the rest wait."""

    isolation: str  # the tier in force, stamped into every verdict
    jobs_lost: int  # so far

    async def judge(self, job: Job) -> Verdict:
        """The verdict, decided outside the child. Infrastructure failure is retried; a job that it outlasts
        has the status SANDBOX_ERROR on every test (`Verdict.lost`), which is nobody's failure and no pass.
        Where too many jobs are lost SandboxError is raised. Cancelling the awaiting task kills the job's
        processes."""
        ...

    async def close(self) -> None:
        """Kills every process."""
        ...


async def verdict_of(judge: Judge, job: Job) -> Verdict:
    """The judge's verdict, for those who go on without the problem: raises JobLost where there is none."""
    verdict = await judge.judge(job)
    if verdict.lost:
        raise JobLost(verdict.cases[0].detail)
    return verdict


async def unless_lost(work: Awaitable[T], otherwise: T) -> T:
    """What the work gives, or `otherwise` where it raises JobLost, which the judge has counted."""
    try:
        return await work
    except JobLost:
        return otherwise


class SandboxError(RuntimeError):
    """The infrastructure failed, not the program. Never a reward."""


class JobLost(SandboxError):
    """A job that the infrastructure failed on, each time it was tried. Others may well be judged."""
