"""The judge on a machine that has more to do than it can: verdicts stay, jobs stay, nothing survives."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys

import pytest
from test_fork_judge import alive, below, wait_until

from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits
from o1jax.sandbox.slots import Slots, SlotSettings

LIMITS = Limits(cpu_s=1.0, wall_s=600.0, memory_mb=128, output_bytes=1 << 16)
TIRED = Limits(cpu_s=0.02, wall_s=600.0)
KINDS = {  # body, form, test, limits, what an idle machine says
    "right": ("print(int(input()) * 2)", "stdin", TestCase("4", "8"), LIMITS, "AC"),
    "wrong": ("print(input())", "stdin", TestCase("4", "8"), LIMITS, "WA"),
    "raising": ("print(1 // 0)", "stdin", TestCase("4", "8"), LIMITS, "RE"),
    "broken": ("print(", "stdin", TestCase("4", "8"), LIMITS, "CE"),
    "talking": ("print('x' * (1 << 17))", "stdin", TestCase("4", "8"), LIMITS, "OLE"),
    "eating": ("x = [0] * 10**9", "stdin", TestCase("4", "8"), LIMITS, "MLE"),
    "looping": ("while True: pass", "stdin", TestCase("4", "8"), TIRED, "TLE"),
    "returning": ("def f(x): return [x, x]", "call", TestCase("[4]", "[4, 4]"), LIMITS, "AC"),
    "lying": ("class Z(int): pass\ndef f(x): return Z(8)", "call", TestCase("[4]", "8"), LIMITS, "BADVALUE"),
    "asserted": ("def f(x): return x * 2", "assertion", TestCase("assert f(4) == 8"), LIMITS, "AC"),
    "checked": ("def f(x): return x * 2", "assertion", TestCase("y = f(4)\nassert y == 9"), LIMITS, "WA"),
}


def mixed_jobs(count: int) -> list[tuple[str, Job]]:
    """`count` different jobs of all kinds, each with the status it must have."""
    jobs = []
    for number, (body, form, test, limits, status) in zip(range(count), itertools.cycle(KINDS.values())):
        jobs.append((status, Job(f"{body}  # {number}", (test,), form, "f", limits=limits)))
    return jobs


@contextlib.contextmanager
def overload(times: int):
    """So many busy processes for every processor."""
    command = [sys.executable, "-S", "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(times * os.cpu_count())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def judged(count: int, slots: int) -> list[tuple[str, str]]:
    """(status it must have, status it has) of mixed jobs."""

    async def go():
        jobs = mixed_jobs(count)
        async with ForkJudge(slots=slots, memo=0) as judge:
            verdicts = await asyncio.gather(*(judge.judge(job) for _, job in jobs))
        return [(want, v.cases[0].status.value) for (want, _), v in zip(jobs, verdicts, strict=True)]

    return asyncio.run(go())


def test_mixed_jobs_have_the_verdicts_they_must():
    assert [pair for pair in judged(len(KINDS), 2) if pair[0] != pair[1]] == []


@pytest.mark.hostile
def test_a_thousand_mixed_jobs_under_fourfold_overload_have_the_same():
    with overload(4):
        found = judged(1000, 2)
    assert len(found) == 1000 and [pair for pair in found if pair[0] != pair[1]] == []


@pytest.mark.hostile
def test_two_hundred_zygotes_killed_at_random_lose_no_job():
    """Under load; a job is hit once at most, for one that loses three attempts is an error by design."""
    kills, rng = 200, random.Random(0)

    async def go():
        slots = Slots(SlotSettings(count=2))
        at_work, on_slot, done, pairs = {}, slots._on_slot, 0, []

        async def noted(index, job):
            at_work[index] = job
            return await on_slot(index, job)

        slots._on_slot = noted
        while done < kills:  # waves of jobs, for a loaded machine may finish one before it is hit often
            kinds, jobs = zip(*mixed_jobs(len(KINDS) * 8), strict=True)
            tasks, hit = [asyncio.create_task(slots.judge(job)) for job in jobs], set()
            while done < kills and not all(task.done() for task in tasks):
                await asyncio.sleep(rng.uniform(0, 0.05))
                index = rng.randrange(2)
                zygote = slots._zygotes[index]
                if zygote is not None and index in at_work and at_work[index] not in hit:
                    hit.add(at_work[index])
                    os.killpg(zygote._process.pid, signal.SIGKILL)
                    done += 1
            verdicts = await asyncio.gather(*tasks)
            pairs += [(kind, v.cases[0].status.value) for kind, v in zip(kinds, verdicts, strict=True)]
        await slots.close()
        return slots.lost, pairs

    with overload(1):
        lost, pairs = asyncio.run(go())
    assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert lost > 0


def test_a_killed_judge_leaves_no_survivor(tmp_path):
    """Neither its supervisor processes nor their slots nor programs: 100 ms later on an idle machine."""
    script = tmp_path / "judging.py"
    script.write_text(
        """
import asyncio
from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits
async def main():
    async with ForkJudge(slots=2, supervisors=1, memo=0) as judge:
        job = Job("import time\\ntime.sleep(600)", (TestCase(""),), "stdin", limits=Limits(5, 600))
        await asyncio.gather(judge.judge(job), judge.judge(job))
asyncio.run(main())
"""
    )
    judge = subprocess.Popen([sys.executable, str(script)])
    try:
        # A supervisor, two warm parents, two programs' processes and their executions.
        assert wait_until(lambda: len(below(judge.pid)) >= 7)
        started = below(judge.pid)
    finally:
        judge.kill()
        judge.wait()
    assert wait_until(lambda: not alive(started))
