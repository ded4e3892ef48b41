"""ForkJudge: the asyncio front of the sandbox. Warm parents that fork, in one process or in many.

Holds the memo of verdicts and spreads jobs over supervisors. Slots and retries are slots.py's. It must
be used from one event loop, and never forks the process it lives in.
"""

from __future__ import annotations

import asyncio
import os
import sys

from o1jax.records import CaseResult, InputError, Status, Verdict
from o1jax.sandbox import wire
from o1jax.sandbox.interface import Job, JobLost, SandboxError
from o1jax.sandbox.slots import Slots, SlotSettings
from o1jax.sandbox.supervisor import SupervisorProcess
from o1jax.sandbox.zygote_process import Isolation

SLOTS_A_SUPERVISOR = 8
TIERS = ("T0", "T1", "T2")
# Of the jobs that are run, the share that may be lost, and how many may be even so: with more something is
# wrong with the machine, and what is left is no fair sample.
MOST_LOST_SHARE, MOST_LOST = 0.05, 3


class ForkJudge:
    """`slots` programs are judged at once, the other calls wait their turn (first come, first served).

    async with ForkJudge(slots=2) as judge:
        verdict = await judge.judge(job)

    Up to eight slots are supervised in this process, more by one supervisor process for every eight;
    `supervisors` asks for so many processes (0: none). `highest` is the isolation tier to try for,
    `packages` can be imported by programs (a judge of their own: they make every fork dearer).

    Raises SandboxError on a system that is not Linux, and at the start where the kernel grants no isolation
    (seccomp and either Landlock or a root directory of its own are the least), unless `insecure=True`.
    `memo` verdicts are kept, so that the same job is not run twice (0: equal jobs are all run); those with
    outputs (keep_output) are only shared by jobs that are asked for meanwhile. stats() counts.

    A job that the infrastructure fails on, each of three times, is lost: its verdict says so (Verdict.lost).
    When more than three, and more than a twentieth of the jobs that were run, are lost, SandboxError is
    raised.
    """

    def __init__(
        self,
        slots: int = 2,
        *,
        insecure: bool = False,
        memo: int = 1 << 16,
        supervisors: int | None = None,
        highest: str = "T2",
        packages: tuple[str, ...] = (),
    ):
        if sys.platform != "linux":
            raise SandboxError(f"system: saw {sys.platform}, wanted linux; use a Linux container or machine")
        if supervisors is None:
            supervisors = 0 if slots <= SLOTS_A_SUPERVISOR else -(-slots // SLOTS_A_SUPERVISOR)
        if slots < 1 or not 0 <= supervisors <= slots:
            raise ValueError(f"slots {slots}, supervisors {supervisors}; wanted slots >= 1, 0..slots of them")
        if highest not in TIERS:
            raise ValueError(f"highest: saw {highest!r}, wanted one of {TIERS}")
        self.jobs = self.memo_hits = self.jobs_lost = 0
        self._run = 0  # jobs that are not the memo's
        self._memo_size = memo
        self._memo: dict[Job, asyncio.Future[Verdict]] = {}  # in order of asking; of jobs under way too
        isolation = Isolation(highest, tuple(packages))
        counts = [len(range(i, slots, max(1, supervisors))) for i in range(max(1, supervisors))]
        kind = SupervisorProcess if supervisors else Slots
        # Forks in a row cost the least; with a processor to spare few are done by when a test has run.
        forks_ahead = 2 if slots < len(os.sched_getaffinity(0)) else 8
        self._teams = [kind(SlotSettings(count, isolation, insecure, forks_ahead)) for count in counts]
        self._turns: asyncio.Queue[Slots | SupervisorProcess] = asyncio.Queue()
        for turn in range(slots):
            self._turns.put_nowait(self._teams[turn % len(self._teams)])

    async def __aenter__(self) -> ForkJudge:
        try:
            await asyncio.gather(*(team.start() for team in self._teams))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Kills every process; jobs under way, and later ones, raise SandboxError."""
        await asyncio.gather(*(team.close() for team in self._teams))

    @property
    def isolation(self) -> str:
        """The tier in force and what makes it, "not started" before the first slot has started."""
        return self._teams[0].isolation

    @property
    def missing(self) -> dict[str, str]:
        """What the tier wanted lacks here: name to reason."""
        return self._teams[0].missing

    def stats(self) -> dict[str, float]:
        """Counters: jobs, jobs_lost, memo_hits, memo_hit_rate, executions, zygotes_lost, zygotes_replaced."""
        return {
            "jobs": self.jobs,
            "jobs_lost": self.jobs_lost,
            "memo_hits": self.memo_hits,
            "memo_hit_rate": self.memo_hits / self.jobs if self.jobs else 0.0,
            "executions": sum(team.executions for team in self._teams),
            "zygotes_lost": sum(team.lost for team in self._teams),
            "zygotes_replaced": sum(team.replaced for team in self._teams),
        }

    async def judge(self, job: Job) -> Verdict:
        """The verdict on one program. Raises SandboxError (too many jobs are lost, or the judge is closed or
        cannot start) and InputError (a malformed test); cancelling the awaiting task kills the job's
        processes."""
        self.jobs += 1
        if not self._memo_size:
            return await self._judged(job)
        while (known := self._memo.get(job)) is not None:
            if not known.done():
                await asyncio.wait([known])
            if not known.cancelled():
                self.memo_hits += 1
                return known.result()
        return await self._remembered(job)

    async def _remembered(self, job: Job) -> Verdict:
        """Judges a job whose equals wait for the same future: it fails as this one does, and is cancelled
        where this one breaks off, whereupon they find another."""
        if len(self._memo) >= self._memo_size:
            del self._memo[next(iter(self._memo))]
        future = self._memo[job] = asyncio.get_running_loop().create_future()
        remember = False
        try:
            verdict = await self._judged(job)
            future.set_result(verdict)
            remember = not (job.keep_output or verdict.lost)
            return verdict
        except (InputError, SandboxError) as error:
            future.set_exception(error)
            future.exception()  # seen: it is raised here, whether or not others wait for it
            raise
        finally:
            if not remember:
                self._memo.pop(job, None)
            future.cancel()

    async def _judged(self, job: Job) -> Verdict:
        wire.check(job)
        job = wire.with_room(job)
        team = await self._turns.get()
        self._run += 1
        try:
            return await team.judge(job)
        except JobLost as error:
            return self._lost(job, str(error))
        finally:
            self._turns.put_nowait(team)

    def _lost(self, job: Job, why: str) -> Verdict:
        self.jobs_lost += 1
        why = f"{job.name}: {why}" if job.name else why
        if self.jobs_lost > max(MOST_LOST, MOST_LOST_SHARE * self._run):
            raise SandboxError(
                f"{self.jobs_lost} of {self._run} programs could not be judged, more than {MOST_LOST} and "
                f"{MOST_LOST_SHARE:.0%}; see to the machine's memory, processes and files (the last: {why})"
            )
        detail = why.replace("\n", " ")[:300]
        cases = (CaseResult(Status.SANDBOX_ERROR, detail),) * max(1, len(job.tests))
        return Verdict(False, cases, self.isolation)
