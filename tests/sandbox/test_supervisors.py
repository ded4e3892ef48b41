"""Wide judges: slots in supervisor processes, which answer, refuse, die and are replaced like slots."""

import asyncio
import os
import pickle
import signal
import time

import pytest

from o1jax.records import InputError, TestCase
from o1jax.sandbox import slots as slots_module
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits, SandboxError
from o1jax.sandbox.slots import Slots, SlotSettings
from o1jax.sandbox.supervisor import SupervisorProcess

PATIENT = Limits(cpu_s=5.0, wall_s=600.0)
SLEEP = "import time\ntime.sleep(600)"


def echo(number: int) -> Job:
    return Job("print(input())", (TestCase(f"{number}\n", f"{number}\n"),), "stdin", limits=PATIENT)


def test_jobs_are_spread_answered_refused_and_cancelled():
    async def go():
        async with ForkJudge(slots=3, supervisors=2) as judge:
            verdicts = await asyncio.gather(*map(judge.judge, map(echo, range(24))))
            assert all(verdict.passed for verdict in verdicts)
            assert {verdict.isolation for verdict in verdicts} == {judge.isolation}
            assert all(team.executions for team in judge._teams)
            with pytest.raises(InputError):
                await judge.judge(Job("", (TestCase("f("),), "call", "f"))
            sleeping = [
                asyncio.create_task(
                    judge.judge(Job(SLEEP + f"#{i}", (TestCase(""),), "stdin", limits=PATIENT))
                )
                for i in range(3)
            ]
            await asyncio.sleep(0.3)
            for task in sleeping:
                task.cancel()
            started = time.monotonic()
            assert (await judge.judge(echo(99))).passed and time.monotonic() - started < 300

    asyncio.run(go())


def test_a_lost_supervisor_loses_no_job():
    async def go():
        team = SupervisorProcess(SlotSettings(count=1))
        tasks = [asyncio.create_task(team.judge(echo(i))) for i in range(20)]
        while not team.executions:
            await asyncio.sleep(0.01)
        os.kill(team._process.pid, signal.SIGKILL)
        assert all(verdict.passed for verdict in await asyncio.gather(*tasks))
        await team.close()
        with pytest.raises(SandboxError, match="closed"):
            await team.judge(echo(1))

    asyncio.run(go())


def test_a_job_that_cannot_be_judged_is_answered():
    async def go():
        team = SupervisorProcess(SlotSettings(count=1))
        for job, error in (
            (Job(object(), (TestCase("", "1"),), "stdin"), SandboxError),
            (Job("def f(): return 1", (TestCase("assert f() == ..."),), "assertion"), InputError),
        ):
            with pytest.raises(error, match="ValueError|a test expects"):
                await asyncio.wait_for(team.judge(job), 120)
        assert (await team.judge(echo(1))).passed
        await team.close()

    asyncio.run(go())


def test_what_goes_wrong_at_the_start_is_told():
    async def go():
        with pytest.raises(SandboxError, match="AttributeError"):
            await SupervisorProcess(SlotSettings(count=1, isolation=None)).start()

    asyncio.run(go())


def test_how_many_supervisors_there_are():
    assert [type(team) for team in ForkJudge(slots=8)._teams] == [Slots]
    wide = ForkJudge(slots=100)
    assert [team._settings.count for team in wide._teams] == [8] * 9 + [7] * 4
    for wrong in ({"slots": 0}, {"slots": 2, "supervisors": 3}, {"slots": 1, "highest": "T3"}):
        with pytest.raises(ValueError):
            ForkJudge(**wrong)


def test_a_job_fits_in_a_message():
    assert pickle.loads(pickle.dumps(echo(1))) == echo(1)


def test_a_slot_is_replaced_when_it_has_served_its_time(monkeypatch):
    monkeypatch.setattr(slots_module, "MOST_EXECUTIONS", 3)

    async def go():
        async with ForkJudge(slots=1) as judge:
            for number in range(4):
                assert (await judge.judge(echo(number))).passed
            assert judge.stats() | {"memo_hit_rate": 0} == {
                "jobs": 4, "jobs_lost": 0, "memo_hits": 0, "memo_hit_rate": 0, "executions": 4,
                "zygotes_lost": 0, "zygotes_replaced": 1,
            }  # fmt: skip

    asyncio.run(go())
