"""Samples of an evaluation that outlive it: a kill loses a minute of them, and a later one only judges.

A file of rollouts is written whole when every problem has its own; until then they lie in shards beside it.
Samples nothing itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from etils import epath

from o1jax.engine.interface import Completion, Request
from o1jax.parallel.processes import this_process
from o1jax.prompts.chat import Tokenizer
from o1jax.records import InputError, Problem, Rollout, Tree
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.stages.leases import work_through
from o1jax.stages.together import my_share, write_joined
from o1jax.stages.workers import EngineSettings, Workers
from o1jax.store import ShardWriter, read_records, read_trees, written_ids
from o1jax.train.metrics import ProgressLine

Sample = Callable[[Problem], Awaitable[list[Rollout]]]
Again = Callable[[Problem, Sequence[Rollout]], Awaitable[list[Rollout]]]  # earlier samples read and judged


@dataclasses.dataclass(frozen=True)
class SampleStore:
    """Where an evaluation keeps what it samples."""

    out: epath.Path  # the directory of this evaluation
    earlier: epath.Path | None  # that of an earlier one whose samples it judges again
    concurrency: int  # problems at once

    async def groups(
        self, name: str, problems: Sequence[Problem], sample: Sample, again: Again
    ) -> list[list[Rollout]]:
        """rollouts_P_G of the file <name>.parquet, in the order of `problems`: those of this evaluation so
        far, and for other problems new samples, or what `again` makes of the earlier evaluation's.

        Raises InputError for a problem that the earlier one lacks.
        """
        whole = self.out / f"{name}.parquet"
        if not whole.exists():
            await self._sample(name, problems, sample, again)
            # One file of all processes' shards, when all is sampled.
            await write_joined(self.out, whole, self.out / f"{name}.shards", Rollout, problems)
        by_problem = _by_problem(read_records(whole, Rollout))
        return [by_problem[problem.id] for problem in problems]

    def has(self, name: str) -> bool:
        """Whether `groups` of that name needs no new samples: those of this evaluation, or an earlier one's,
        are whole."""
        return self.earlier is not None or (self.out / f"{name}.parquet").exists()

    def remove(self, name: str) -> None:
        """Removes a directory of groups that no process reads any more."""
        if this_process().index == 0:
            (self.out / name).rmtree(missing_ok=True)

    async def _sample(self, name: str, problems: Sequence[Problem], sample: Sample, again: Again) -> None:
        shards, share = self.out / f"{name}.shards", my_share(problems)
        done = written_ids(shards)
        line, ended = ProgressLine(f"evaluate {name}", len(share)), itertools.count(1)
        known, earlier = sum(problem.id in done for problem in share), {}
        if self.earlier is not None:
            earlier = _by_problem(read_records(self.earlier / f"{name}.parquet", Rollout))
        with ShardWriter(shards, Rollout, rows=512) as store:

            async def work(problem: Problem) -> None:
                if self.earlier is None:
                    group = await sample(problem)
                elif problem.id not in earlier:
                    raise InputError(
                        f"{self.earlier}/{name}.parquet: no samples of problem {problem.id}; "
                        "give the problems that were sampled, or sample anew without inputs.samples"
                    )
                else:
                    group = await again(problem, earlier[problem.id])
                store.extend(group)
                # How many, and no mean of them: the problems that end first are the easy ones.
                done_now = known + next(ended)
                line.show(done_now, "judged", now=done_now == len(share))

            await self.work_through(name, problems, work, store)

    def trees(self, name: str) -> ShardWriter[Tree]:
        """Where searched trees are: the earlier evaluation's stand as they are."""
        return ShardWriter((self.earlier or self.out) / name, Tree)

    async def work_through(
        self,
        name: str,
        problems: Sequence[Problem],
        work: Callable[[Problem], Awaitable[None]],
        kept: ShardWriter,
    ) -> None:
        """leases.work_through, in this evaluation."""
        what = name.replace("/", "_")
        await work_through(self.out, what, problems, work, kept, self.concurrency)

    def all_trees(self, name: str, problems: Sequence[Problem]) -> list[Tree]:
        """Those of `problems`, in order."""
        return read_trees(self.trees(name).directory, [problem.id for problem in problems])


class NoEngine:
    """Stands where samples are kept: refuses to generate."""

    max_context = 1 << 30

    def __init__(self, earlier: epath.Path):
        self.earlier = earlier

    async def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        raise InputError(
            f"{self.earlier}: not all samples that are needed are there; give the settings that it was made "
            "with, or sample anew without inputs.samples"
        )

    def stats(self) -> dict[str, float]:
        return {"generated_tokens": 0.0, "busy_s": 0.0}


@contextlib.asynccontextmanager
async def only_judging(
    earlier: epath.Path, tokenizer: Tokenizer, settings: EngineSettings
) -> AsyncIterator[Workers]:
    """A judge and no engine, closed at the end."""
    async with ForkJudge(slots=settings.judge_slots, packages=settings.judge_packages) as judge:
        yield Workers(NoEngine(earlier), judge, tokenizer, time.monotonic())


def _by_problem(rollouts: Sequence[Rollout]) -> dict[str, list[Rollout]]:
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.problem_id, []).append(rollout)
    return groups
