"""Reference programs run against their problems' tests, several at once, in an order that a kill keeps.

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
from o1jax.records import Problem, Verdict
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits, job_of
from o1jax.store import ShardWriter, read_shards
from o1jax.train.metrics import ProgressLine

SHARD_S = 10.0


@dataclasses.dataclass(frozen=True)
class ReferenceCheck:
    """Of a problem: how many tests and references were run, which references (indices) passed every test, and
    the first failure in a line."""

    id: str
    tests: int
    references: int
    passing: tuple[int, ...]
    first_failure: str

    @property
    def references_passed(self) -> int:
        return len(self.passing)


@dataclasses.dataclass(frozen=True)
class Judging:
    """How references are run: `slots` at once, the first `max_solutions` of a problem, by a comparison of
    sandbox/graders.py ("": the sandbox's own), with `packages` to import."""

    slots: int
    max_solutions: int
    grader: str
    packages: tuple[str, ...]
    limits: Limits


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
    return ReferenceCheck(
        id=problem.id,
        tests=len(tests),
        references=len(verdicts),
        passing=tuple(i for i, verdict in enumerate(verdicts) if verdict.passed),
        first_failure=_first_failure(verdicts),
    )


def _first_failure(verdicts: Sequence[Verdict]) -> str:
    failures = (
        f"reference {i}, test {j}: {case.status} {case.detail}".strip()
        for i, verdict in enumerate(verdicts)
        for j, case in enumerate(verdict.cases)
        if not case.passed
    )
    return next(failures, "")
