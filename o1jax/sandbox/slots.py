"""The slots of one supervisor: warm parents, each judging one program at a time, and what they lose.

Holds retries and replacement. Isolation is jail/'s, what an answer is worth is verdicts.py's, and the
memo is ForkJudge's. It must be used from one event loop, and never forks the process it lives in.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os

from o1jax.records import CaseResult, Status, TestCase, Verdict
from o1jax.sandbox import verdicts, wire
from o1jax.sandbox.cgroup import Cgroup, own_cgroup
from o1jax.sandbox.interface import Job, SandboxError
from o1jax.sandbox.zygote_process import Isolation, Zygote, ZygoteDied

ATTEMPTS = 3
SLACK_S = 120.0  # beyond all wall limits: only a stuck sandbox process gets there
MAX_THREADS = 64
MOST_EXECUTIONS = 10_000  # of one warm parent: then it is replaced, whatever it may have gathered
BULKY = 1 << 20  # bytes of records that are not compared in one go: everybody here waits meanwhile
NOT_RUN = CaseResult(Status.NORESULT, "not run")


@dataclasses.dataclass(frozen=True)
class SlotSettings:
    """The slots of one supervisor."""

    count: int
    isolation: Isolation = Isolation()
    insecure: bool = False  # runs programs also where the kernel grants no isolation


class Slots:
    """As many programs are judged at once as there are slots; other calls wait their turn, first come,
    first served. `lost` counts warm parents that died, `replaced` those that had served their time."""

    def __init__(self, settings: SlotSettings):
        self.isolation = "not started"
        self.missing: dict[str, str] = {}
        self.lost = self.replaced = self.executions = 0
        self._settings = settings
        self._closed = False
        self._cgroups: dict[int, Cgroup] = {}
        self._zygotes: list[Zygote | None] = [None] * settings.count
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for index in range(settings.count):
            self._free.put_nowait(index)

    async def start(self) -> None:
        """Starts every warm parent now, not at its first job. Raises SandboxError."""
        await asyncio.gather(*map(self._zygote, range(len(self._zygotes))))

    async def close(self) -> None:
        """Kills every process; jobs under way, and later ones, raise SandboxError."""
        self._closed = True
        for index in range(len(self._zygotes)):
            await self._discard(index)
        while self._cgroups:
            self._cgroups.popitem()[1].remove()

    async def judge(self, job: Job) -> Verdict:
        """The verdict on one program. Raises SandboxError after three attempts; cancelling the awaiting
        task kills the job's processes."""
        index = await self._free.get()
        try:
            return await self._on_slot(index, job)
        finally:
            self._free.put_nowait(index)

    async def _on_slot(self, index: int, job: Job) -> Verdict:
        """Tests in one batch; with stop_at_failure in form stdin in batches of 1, 2, 4, ..., for the
        comparison is here. In the other forms all tests share one execution and its time, so one batch."""
        in_batches = job.stop_at_failure and job.form == "stdin"
        cases: list[CaseResult] = []
        while len(cases) < max(1, len(job.tests)):
            size = len(cases) + 1 if in_batches else len(job.tests)
            tests = job.tests[len(cases) : len(cases) + size]
            compiled, found = await self._attempts(index, job, tests)
            cases += found
            failed = [i for i, case in enumerate(cases) if not case.passed]
            if job.stop_at_failure and failed:
                cases = cases[: failed[0] + 1]
                cases += [NOT_RUN] * (len(job.tests) - len(cases))
            if not compiled:
                cases = [cases[0]] * len(job.tests) if job.tests else []
            if not job.tests:
                break
        return Verdict(compiled, tuple(cases), self.isolation)

    async def _attempts(
        self, index: int, job: Job, tests: tuple[TestCase, ...]
    ) -> tuple[bool, list[CaseResult]]:
        """(compiled, results), tried three times; each attempt after the first has a fresh warm parent."""
        for attempt in range(ATTEMPTS):
            try:
                compiled, cases, killed = await self._once(index, job, tests)
                # Killed from outside, it may be the machine that was out of memory; three times over, it is
                # the program's own doing.
                if not killed or attempt == ATTEMPTS - 1:
                    return compiled, cases
                failure: Exception | None = None
            except (ZygoteDied, wire.Incomplete) as error:
                failure = error
            except BaseException:
                await asyncio.shield(self._discard(index))
                raise
            self.lost += 1
            await self._discard(index)
        raise SandboxError(f"no verdict after {ATTEMPTS} attempts: {failure}") from failure

    async def _once(
        self, index: int, job: Job, tests: tuple[TestCase, ...]
    ) -> tuple[bool, list[CaseResult], bool]:
        """(compiled, results, whether an execution was killed from outside)."""
        zygote = await self._zygote(index)
        if index in self._cgroups:
            self._cgroups[index].cap(job.limits.memory_mb)
        own_user = {"uid", "user"} & set(zygote.names)  # elsewhere the user's other processes would count
        data = wire.payload(job, tests, sealed=zygote.sealed, max_threads=MAX_THREADS if own_user else 0)
        executions = len(tests) if job.form == "stdin" else 1
        deadline = SLACK_S + job.limits.wall_s * executions + 4 * math.ceil(job.limits.cpu_s)
        status, raw = await zygote.run(data, wire.checks(job, tests), deadline)
        found = list(wire.records(raw))
        made = sum(record.kind == b"T" for record in found)
        self.executions += made
        zygote.executions += made
        why = verdicts.compile_failure(status, found)
        if why is not None:
            return False, [CaseResult(Status.CE, why)] * max(1, len(tests)), False
        cases = []
        for case in verdicts.results(job, tests, found):
            cases.append(case)
            if len(raw) > BULKY:
                await asyncio.sleep(0)
        return True, cases, verdicts.killed_from_outside(job, found)

    async def _zygote(self, index: int) -> Zygote:
        zygote = self._zygotes[index]
        if zygote is not None and zygote.executions >= MOST_EXECUTIONS:
            self.replaced += 1
            await self._discard(index)
            zygote = None
        if zygote is None:
            await self._refuse_if_closed(index)
            zygote = self._zygotes[index] = await Zygote.start(self._settings.isolation, self._cgroup(index))
            self.isolation, self.missing = zygote.isolation, zygote.missing
            if not (zygote.sealed or self._settings.insecure):
                await self._discard(index)
                raise SandboxError(
                    f"no isolation here ({self.missing}); insecure=True runs programs without it"
                )
        await self._refuse_if_closed(index)
        return zygote

    async def _refuse_if_closed(self, index: int) -> None:
        if self._closed:
            await self._discard(index)
            raise SandboxError("the judge is closed")

    def _cgroup(self, index: int) -> Cgroup | str:
        """The slot's cgroup, made once, or why there is none."""
        if self._settings.isolation.highest != "T2" or os.geteuid() != 0:
            return ""
        try:
            if index not in self._cgroups:
                self._cgroups[index] = Cgroup(own_cgroup())
            return self._cgroups[index]
        except OSError as error:
            return error.strerror

    async def _discard(self, index: int) -> None:
        zygote, self._zygotes[index] = self._zygotes[index], None
        if zygote is not None:
            await zygote.kill()
