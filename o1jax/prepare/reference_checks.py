"""Reference programs run against their problems' tests, several at once; a stage that was killed goes on.

What was found is written to a directory of shards every ten seconds; problems that are there already are
not run again. Part of the check_problems stage.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence

from etils import epath

from o1jax.concurrency import run_in_order
from o1jax.records import Problem
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits, job_of
from o1jax.store import ShardWriter, read_shards
from o1jax.train.metrics import ProgressLine

SHARD_S = 10.0


@dataclasses.dataclass(frozen=True)
class ReferenceCheck:
    """What was found of a problem."""

    id: str  # the problem's
    tests: int  # its own and its hidden ones
    references: int  # that were run
    passing: tuple[int, ...]  # those that passed every test: indices into its solutions
    first_failure: str  # of any reference, in a line; "" where there is none

    @property
    def references_passed(self) -> int:
        return len(self.passing)

    @property
    def is_consistent(self) -> bool:
        """False where all references fail: then the tests are as doubtful as they are."""
        return bool(self.passing) or not self.references

    def line(self) -> str:
        """The problem and its first failure, to read."""
        return f"{self.id}: {self.references_passed} of {self.references} pass; {self.first_failure}"


@dataclasses.dataclass(frozen=True)
class Judging:
    """How references are run."""

    slots: int  # at once
    max_solutions: int  # of a problem, its first ones
    grader: str  # of sandbox/graders.py; "": the problem's own
    packages: tuple[str, ...]  # that they may import
    limits: Limits  # of one execution


async def check_references(
    problems: Sequence[Problem], directory: epath.Path, judging: Judging
) -> tuple[list[ReferenceCheck], float]:
    """The checks of `problems`, in their order, and problems a second of those that were run now."""
    done = {check.id: check for check in read_shards(directory, ReferenceCheck)}
    left = [problem for problem in problems if problem.id not in done]
    line, started, passed = ProgressLine("check", len(problems)), time.monotonic(), []
    async with ForkJudge(slots=judging.slots, memo=0, packages=judging.packages) as judge:
        with ShardWriter(directory, ReferenceCheck, rows=512, seconds=SHARD_S) as store:

            async def work(problem: Problem) -> None:
                done[problem.id] = check = await _checked(judge, problem, judging)
                store.append(check)
                passed.append(check.references_passed > 0)
                rate = len(passed) / (time.monotonic() - started)
                # How many have a right reference is said at the end: the quick problems end first.
                right = f", {sum(passed)} with a right reference" if len(passed) == len(left) else ""
                line.show(len(done), f"{rate:.1f} problems/s{right}", now=len(passed) == len(left))

            await run_in_order(work, left, 2 * judging.slots)
    rate = len(left) / (time.monotonic() - started)
    return [done[problem.id] for problem in problems], round(rate, 2)


async def _checked(judge: ForkJudge, problem: Problem, judging: Judging) -> ReferenceCheck:
    tests = (*problem.tests, *problem.hidden_tests)
    jobs = [
        dataclasses.replace(
            job_of(problem, source, tests, judging.limits),
            grader=judging.grader or problem.grader,
            stop_at_failure=True,
        )
        for source in problem.solutions[: judging.max_solutions]
    ]
    verdicts = await asyncio.gather(*map(judge.judge, jobs))
    passing = tuple(i for i, verdict in enumerate(verdicts) if verdict.passed)
    judged = sum(not verdict.lost for verdict in verdicts)  # the others neither passed nor failed
    failures = (
        f"reference {i}, test {j}: {case.status} {case.detail}".strip()
        for i, verdict in enumerate(verdicts)
        for j, case in enumerate(verdict.cases)
        if not case.passed
    )
    return ReferenceCheck(problem.id, len(tests), judged, passing, next(failures, ""))
