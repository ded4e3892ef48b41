"""The slots of one supervisor: warm parents, each judging one program at a time, and what they lose.

Holds retries and replacement. Isolation is jail/'s, what an answer is worth is verdicts.py's, and the
memo is ForkJudge's. It must be used from one event loop, and never forks the process it lives in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import itertools
import math
import os
import pathlib
import time

from o1jax.records import CaseResult, Status, TestCase, Verdict
from o1jax.sandbox import verdicts, wire
from o1jax.sandbox.cgroup import Cgroup, own_cgroup
from o1jax.sandbox.interface import Job, JobLost, SandboxError
from o1jax.sandbox.zygote_process import Isolation, Zygote, ZygoteDied

# Before another attempt. The first is for what dies alone; the second outlasts a program that took all there
# is (threads, memory) for as long as the default limits let it.
PAUSES_S = (0.1, 10.0)
ATTEMPTS = 1 + len(PAUSES_S)
SLACK_S = 120.0  # beyond all wall limits: only a stuck sandbox process gets there
MOST_WALLS = 17  # times its wall time: what a test may take on a busy machine (jail/program.py), and one
MAX_THREADS = 64  # of one program
SPARE_THREADS = 256  # which the others of this user may start while a program runs that is counted with them
COUNTED_S = 5.0  # for so long the number of this user's threads is taken to stay
MOST_EXECUTIONS = 10_000  # of one warm parent: then it is replaced, whatever it may have gathered
BULKY = 1 << 16  # bytes of records that are judged in a thread: everybody on this event loop would wait
NOT_RUN = CaseResult(Status.NORESULT, "not run")


@dataclasses.dataclass(frozen=True)
class SlotSettings:
    """The slots of one supervisor."""

    count: int
    isolation: Isolation = Isolation()
    insecure: bool = False  # runs programs also where the kernel grants no isolation
    forks_ahead: int = 8  # how many executions of a program are forked in a row, while another runs


class Slots:
    """As many programs are judged at once as there are slots; other calls wait their turn, first come,
    first served. `lost` counts warm parents that died, `replaced` those that had served their time."""

    def __init__(self, settings: SlotSettings):
        self.isolation = "not started"
        self.missing: dict[str, str] = {}
        self.lost = self.replaced = self.executions = 0
        self._settings = settings
        self._closed = False
        # One thread: so there is one bulky answer in memory at a time, however many slots there are.
        self._grading = concurrent.futures.ThreadPoolExecutor(1, "grading")
        self._user_threads, self._counted = 0, -math.inf
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
        self._grading.shutdown(wait=False)

    async def judge(self, job: Job) -> Verdict:
        """The verdict on one program. Raises JobLost after three attempts; cancelling the awaiting task
        kills the job's processes."""
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
        """(compiled, results), tried three times; each attempt after the first has a fresh warm parent, and
        time between."""
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
            if attempt < len(PAUSES_S):
                await asyncio.sleep(PAUSES_S[attempt])
        raise JobLost(f"no verdict after {ATTEMPTS} attempts: {failure}") from failure

    async def _once(
        self, index: int, job: Job, tests: tuple[TestCase, ...]
    ) -> tuple[bool, list[CaseResult], bool]:
        """(compiled, results, whether an execution was killed from outside)."""
        zygote = await self._zygote(index)
        if index in self._cgroups:
            self._cgroups[index].cap(job.limits.memory_mb)
        data = wire.payload(
            job,
            tests,
            sealed=zygote.sealed,
            max_threads=self._max_threads(zygote),
            forks_ahead=self._settings.forks_ahead,
        )
        wall_s = MOST_WALLS * job.limits.wall_s * max(1, len(tests))
        deadline = SLACK_S + wall_s + 4 * math.ceil(job.limits.cpu_s)
        async with zygote.run(data, wire.checks(job, tests), deadline) as (status, file):
            graded = await self._graded(job, tests, status, file)
        self.executions += graded.executions
        zygote.executions += graded.executions
        return graded.compiled, graded.cases, graded.killed

    async def _graded(self, job: Job, tests: tuple[TestCase, ...], status: int, file: int) -> Graded:
        if os.fstat(file).st_size <= BULKY:
            return grade(job, tests, status, file)
        grading = asyncio.get_running_loop().run_in_executor(self._grading, grade, job, tests, status, file)
        try:
            return await asyncio.shield(grading)
        except asyncio.CancelledError:
            await asyncio.wait([grading])  # it reads the file, whose number must not become another's
            raise

    def _max_threads(self, zygote: Zygote) -> int:
        """The limit, as the kernel counts: of a slot's own user, or of this one with all that it runs."""
        if {"uid", "user", "threads"} & set(zygote.names):
            return MAX_THREADS
        if time.monotonic() - self._counted > COUNTED_S:
            self._user_threads, self._counted = threads_of(os.getuid()), time.monotonic()
        return self._user_threads + SPARE_THREADS

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


@dataclasses.dataclass(frozen=True)
class Graded:
    """What the records of a program's process are worth."""

    compiled: bool
    cases: list[CaseResult]
    killed: bool = False  # whether an execution was killed from outside
    executions: int = 0


def grade(job: Job, tests: tuple[TestCase, ...], status: int, file: int) -> Graded:
    """Reads and judges the records in `file`, one at a time. Raises wire.Incomplete."""
    found = wire.records_in(file)
    why = verdicts.compile_failure(status, list(itertools.islice(found, 2)))
    if why is not None:
        return Graded(False, [CaseResult(Status.CE, why)] * max(1, len(tests)))
    killed, executions = False, 0 if job.form == "stdin" else 1

    def seen():
        nonlocal killed, executions
        for run in found:
            killed |= verdicts.killed_from_outside(job, run)
            executions += run.kind == b"T"
            yield run

    cases = list(verdicts.results(job, tests, seen()))
    return Graded(True, cases, killed, executions)


def threads_of(uid: int) -> int:
    """How many threads this user runs, as /proc shows them."""
    count = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines())
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(fields["Uid"].split()[0]) == uid:
            count += int(fields.get("Threads", 1))
    return count
