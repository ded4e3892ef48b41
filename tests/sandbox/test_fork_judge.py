"""The judge as a service: order, concurrency, cancellation, lost processes, nothing left behind."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from o1jax.records import InputError, Status, TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits, SandboxError

ECHO = "print(input())"
SLEEP = "import time\ntime.sleep(60)"
PATIENT = Limits(cpu_s=5.0, wall_s=60.0)
REPO = pathlib.Path(__file__).parents[2]


def echo(n: int, tag: str = "") -> Job:
    return Job(
        f"{ECHO}  # {tag}", tuple(TestCase(f"{i}\n", f"{i}\n") for i in range(n)), "stdin", limits=PATIENT
    )


def alive(marker: str) -> list[int]:
    """The processes whose command line or environment names `marker`."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_results_are_in_the_order_of_the_tests(runner, judge):
    tests = tuple(TestCase(f"{i}\n", "3\n") for i in range(6))
    verdict = runner.run(judge.judge(Job(ECHO, tests, "stdin", limits=PATIENT)))
    assert [case.passed for case in verdict.cases] == [False, False, False, True, False, False]
    assert verdict.compiled and verdict.isolation == judge.isolation != ""


def test_sixty_four_jobs_at_once(runner, judge):
    async def go():
        jobs = [
            Job(f"print({i})", (TestCase("", f"{i % 60}\n"),), "stdin", limits=PATIENT) for i in range(64)
        ]
        return await asyncio.gather(*map(judge.judge, jobs))

    assert [verdict.passed for verdict in runner.run(go())] == [True] * 60 + [False] * 4


def test_no_thread_is_started(runner, judge):
    runner.run(judge.judge(echo(1, "threads")))
    assert [t.name for t in threading.enumerate() if "asyncio" in t.name or "waitpid" in t.name] == []


def test_stop_at_failure_leaves_the_rest_unrun(runner, judge):
    tests = tuple(TestCase(f"{i}\n", f"{i % 4}\n") for i in range(9))
    job = Job(ECHO, tests, "stdin", limits=PATIENT, stop_at_failure=True)
    cases = runner.run(judge.judge(job)).cases
    assert [case.status for case in cases] == [Status.AC] * 4 + [Status.WA] + [Status.NORESULT] * 4
    assert cases[-1].detail == "not run"


def test_stop_at_failure_changes_no_passing_verdict(runner, judge):
    job = Job("def f(x): return x", (TestCase("[1]", "1"),) * 5, "call", "f", stop_at_failure=True)
    assert runner.run(judge.judge(job)).passed


def test_cancelling_frees_the_slot_and_kills_the_program():
    async def go():
        async with ForkJudge(slots=1) as judge:
            task = asyncio.create_task(judge.judge(Job(SLEEP, (TestCase(""),), "stdin", limits=PATIENT)))
            await asyncio.sleep(0.3)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            verdict = await judge.judge(echo(1))
            assert verdict.passed and time.monotonic() - started < 30  # the program sleeps for 60

    asyncio.run(go())


def test_killed_zygotes_lose_no_job():
    async def go():
        async with ForkJudge(slots=2, memo=0) as judge:
            tasks = [asyncio.create_task(judge.judge(echo(3, str(i)))) for i in range(60)]
            for kill in range(4):  # two a slot: a job that loses three attempts is an error
                await asyncio.sleep(0.05)
                zygote = judge._teams[0]._zygotes[kill % 2]
                if zygote is not None:
                    os.killpg(zygote._process.pid, signal.SIGKILL)
            verdicts = await asyncio.gather(*tasks)
            assert all(verdict.passed for verdict in verdicts) and judge.stats()["zygotes_lost"] > 0

    asyncio.run(go())


def test_infrastructure_failure_is_raised_never_a_verdict(monkeypatch):
    async def go():
        async with ForkJudge(slots=1) as judge:
            monkeypatch.setattr("o1jax.sandbox.wire.records", lambda raw: iter(()))
            with pytest.raises(SandboxError, match="no verdict after 3 attempts"):
                await judge.judge(echo(1))
            monkeypatch.undo()
            assert (await judge.judge(echo(1))).passed

    asyncio.run(go())


def test_without_isolation_it_refuses_unless_told(monkeypatch):
    from o1jax.sandbox.zygote_process import Zygote

    start = Zygote.start

    async def unsealed(*arguments):
        zygote = await start(*arguments)
        zygote.sealed = False
        return zygote

    async def go():
        monkeypatch.setattr(Zygote, "start", unsealed)
        with pytest.raises(SandboxError, match="no isolation"):
            async with ForkJudge(slots=1):
                pass
        async with ForkJudge(slots=1, insecure=True) as judge:
            assert (await judge.judge(echo(1))).passed

    asyncio.run(go())


def test_equal_jobs_are_run_once():
    async def go():
        async with ForkJudge(slots=1) as judge:
            first, second = await judge.judge(echo(2)), await judge.judge(echo(2))
            assert first is second and (judge.jobs, judge.memo_hits) == (2, 1)

    asyncio.run(go())


def test_malformed_tests_are_the_users_error(runner, judge):
    for form, test in [
        ("call", TestCase("f(", "1")),
        ("call", TestCase("3", "1")),
        ("assertion", TestCase("assert")),
    ]:
        with pytest.raises(InputError):
            runner.run(judge.judge(Job("def f(): pass", (test,), form, "f")))
    with pytest.raises(InputError):
        runner.run(judge.judge(Job("def f(): return 1", (TestCase("[]", "one"),), "call", "f")))
    assert runner.run(judge.judge(echo(1, "after"))).passed


def test_killed_supervisor_leaves_no_survivor():
    marker = "jail/zygote.py"
    before = set(alive(marker))
    script = f"""
import asyncio
from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits
async def main():
    async with ForkJudge(slots=2) as judge:
        job = Job({SLEEP!r}, (TestCase(""),), "stdin", limits=Limits(5, 60))
        tasks = [asyncio.create_task(judge.judge(job)) for _ in range(2)]
        await asyncio.sleep(0.5)
        print("running", flush=True)
        await asyncio.gather(*tasks)
asyncio.run(main())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script], cwd=REPO, stdout=subprocess.PIPE)
    try:
        assert supervisor.stdout.readline() == b"running\n"
        assert len(set(alive(marker)) - before) >= 4  # two warm parents, two programs and their executions
    finally:
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()
    assert wait_until(lambda: not set(alive(marker)) - before)


def test_close_leaves_no_process():
    marker = "jail/zygote.py"
    before = set(alive(marker))

    async def go():
        async with ForkJudge(slots=2) as judge:
            assert (await judge.judge(echo(1))).passed

    asyncio.run(go())
    assert wait_until(lambda: not set(alive(marker)) - before)


def test_close_ends_the_jobs_under_way():
    async def go():
        judge = ForkJudge(slots=1)
        tests = (TestCase(""),)
        jobs = [Job(f"{SLEEP}  # {i}", tests, "stdin", limits=PATIENT) for i in range(3)]
        tasks = [asyncio.create_task(judge.judge(job)) for job in jobs]
        await asyncio.sleep(0.5)
        await judge.close()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert [type(answer) for answer in answers] == [SandboxError] * 3

    asyncio.run(go())


def test_command_line_prints_the_tier():
    done = subprocess.run([sys.executable, "-m", "o1jax.sandbox"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("isolation: ") and "AC" in done.stdout
