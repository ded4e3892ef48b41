"""ForkJudge: the asyncio front of the sandbox. A few warm parents, one fork an execution.

Holds slots, retries and the memo of verdicts. Isolation is jail/'s, what an answer is worth is
verdicts.py's. It must be used from one event loop, and never forks the process it lives in.
"""

from __future__ import annotations

import asyncio
import math

from o1jax.records import CaseResult, Status, TestCase, Verdict
from o1jax.sandbox import verdicts, wire
from o1jax.sandbox.interface import Job, SandboxError
from o1jax.sandbox.zygote_process import Zygote, ZygoteDied

ATTEMPTS = 3
SLACK_S = 30.0  # beyond all wall limits: only a stuck sandbox process gets there
MAX_THREADS = 64
NOT_RUN = CaseResult(Status.NORESULT, "not run")


class ForkJudge:
    """`slots` programs are judged at once, the other calls wait their turn (first come, first served).

    async with ForkJudge(slots=2) as judge:
        verdict = await judge.judge(job)

    Raises SandboxError at the start where the kernel grants no isolation (seccomp is the least),
    unless `insecure=True`. `memo` verdicts are kept, so that the same job is not run twice;
    `jobs` and `memo_hits` count.
    """

    def __init__(self, slots: int = 2, *, insecure: bool = False, memo: int = 1 << 16):
        if slots < 1:
            raise ValueError(f"slots is {slots}; at least 1 is needed")
        self.isolation = "not started"
        self.missing: dict[str, str] = {}
        self.jobs = self.memo_hits = self.zygotes_lost = 0
        self._closed = False
        self._insecure, self._memo_size = insecure, memo
        self._memo: dict[Job, Verdict] = {}
        self._slots: list[Zygote | None] = [None] * slots
        self._free: asyncio.Queue[int] = asyncio.Queue()
        for index in range(slots):
            self._free.put_nowait(index)

    async def __aenter__(self) -> ForkJudge:
        try:
            await asyncio.gather(*map(self._zygote, range(len(self._slots))))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Kills every process; jobs under way, and later ones, raise SandboxError."""
        self._closed = True
        for index in range(len(self._slots)):
            await self._discard(index)

    async def judge(self, job: Job) -> Verdict:
        """The verdict on one program. Raises SandboxError (infrastructure, after three attempts) and
        InputError (a malformed test); cancelling the awaiting task kills the job's processes."""
        self.jobs += 1
        if job in self._memo:
            self.memo_hits += 1
            return self._memo[job]
        wire.check(job)
        index = await self._free.get()
        try:
            verdict = await self._on_slot(index, job)
        finally:
            self._free.put_nowait(index)
        self._remember(job, verdict)
        return verdict

    def _remember(self, job: Job, verdict: Verdict) -> None:
        while self._memo and len(self._memo) >= self._memo_size:
            del self._memo[next(iter(self._memo))]
        if self._memo_size:
            self._memo[job] = verdict

    async def _on_slot(self, index: int, job: Job) -> Verdict:
        """Tests in one batch; with stop_at_failure in batches of 1, 2, 4, ..., for the comparison is here."""
        cases: list[CaseResult] = []
        while len(cases) < max(1, len(job.tests)):
            size = len(cases) + 1 if job.stop_at_failure else len(job.tests)
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
                compiled, cases = await self._once(index, job, tests)
                killed = any(case.detail == verdicts.KILLED for case in cases)
                if not killed or attempt == ATTEMPTS - 1:  # three times: the program's own doing
                    return compiled, cases
                failure: Exception | None = None
            except (ZygoteDied, wire.Incomplete) as error:
                failure = error
            except BaseException:
                await asyncio.shield(self._discard(index))
                raise
            self.zygotes_lost += 1
            await self._discard(index)
        raise SandboxError(f"no verdict after {ATTEMPTS} attempts: {failure}") from failure

    async def _once(self, index: int, job: Job, tests: tuple[TestCase, ...]) -> tuple[bool, list[CaseResult]]:
        zygote = await self._zygote(index)
        pids = "pid" in zygote.isolation.split("(")[-1]
        data = wire.payload(job, tests, sealed=zygote.sealed, max_threads=MAX_THREADS if pids else 0)
        executions = len(tests) if job.form == "stdin" else 1
        deadline = SLACK_S + job.limits.wall_s * executions + 4 * math.ceil(job.limits.cpu_s)
        status, raw = await zygote.run(data, deadline)
        found = list(wire.records(raw))
        why = verdicts.compile_failure(status, found)
        if why is not None:
            return False, [CaseResult(Status.CE, why)] * max(1, len(tests))
        return True, verdicts.results(job, tests, found)

    async def _zygote(self, index: int) -> Zygote:
        if self._closed:
            raise SandboxError("the judge is closed")
        zygote = self._slots[index]
        if zygote is None:
            zygote = self._slots[index] = await Zygote.start()
            self.isolation, self.missing = zygote.isolation, zygote.missing
            if not (zygote.sealed or self._insecure):
                await self._discard(index)
                raise SandboxError(
                    f"no isolation here ({self.missing}); insecure=True runs programs without it"
                )
        return zygote

    async def _discard(self, index: int) -> None:
        zygote, self._slots[index] = self._slots[index], None
        if zygote is not None:
            await zygote.kill()
