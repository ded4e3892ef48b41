"""The judge's memo: equal jobs are run once, whoever asks and whatever becomes of the first."""

import asyncio
import dataclasses

from test_fork_judge import PATIENT, echo

from o1jax.records import TestCase
from o1jax.sandbox import slots, wire
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job


def test_equal_jobs_are_run_once():
    async def go():
        async with ForkJudge(slots=1) as judge:
            first, second = await judge.judge(echo(2)), await judge.judge(echo(2))
            assert first is second and (judge.jobs, judge.memo_hits) == (2, 1)

    asyncio.run(go())


def test_equal_jobs_asked_for_together_are_run_once():
    async def go():
        async with ForkJudge(slots=4) as judge:
            verdicts = await asyncio.gather(*(judge.judge(echo(2)) for _ in range(64)))
            assert all(verdict is verdicts[0] for verdict in verdicts) and verdicts[0].passed
            assert (judge.stats()["executions"], judge.memo_hits) == (2, 63)

    asyncio.run(go())


def test_an_equal_job_that_is_cancelled_takes_no_other_with_it():
    job = Job("import time\ntime.sleep(0.5)", (TestCase(""),), "stdin", limits=PATIENT)

    async def go():
        async with ForkJudge(slots=2) as judge:
            first, *others = (asyncio.create_task(judge.judge(job)) for _ in range(5))
            await asyncio.sleep(0.1)
            first.cancel()
            others[0].cancel()
            answers = await asyncio.gather(first, *others, return_exceptions=True)
            assert [type(answer) for answer in answers[:2]] == [asyncio.CancelledError] * 2
            assert all(verdict.passed for verdict in answers[2:]) and judge.memo_hits == 2

    asyncio.run(go())


def test_equal_jobs_fail_together(monkeypatch):
    async def go():
        async with ForkJudge(slots=2) as judge:
            monkeypatch.setattr(wire, "records_in", lambda file: iter(()))
            monkeypatch.setattr(slots, "PAUSES_S", (0.0, 0.0))
            answers = await asyncio.gather(*(judge.judge(echo(1)) for _ in range(5)))
            assert all(answer is answers[0] for answer in answers) and answers[0].lost
            assert judge.stats()["zygotes_lost"] == slots.ATTEMPTS
            monkeypatch.undo()
            assert (await judge.judge(echo(1))).passed

    asyncio.run(go())


def test_the_memo_keeps_no_outputs():
    async def go():
        async with ForkJudge(slots=1, memo=2) as judge:
            keeping = dataclasses.replace(echo(1), keep_output=True)
            for _ in range(2):
                assert (await judge.judge(keeping)).cases[0].output == "0\n"
            assert (judge.memo_hits, len(judge._memo)) == (0, 0)
            for number in range(4):
                await judge.judge(echo(1, str(number)))
            assert len(judge._memo) == 2

    asyncio.run(go())
