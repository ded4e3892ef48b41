"""A program and the machine it runs on: threads, its own limits, time on a busy machine, sealed files."""

import asyncio
import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from o1jax.records import Status, TestCase
from o1jax.sandbox import wire
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits
from o1jax.sandbox.slots import SlotSettings, threads_of
from o1jax.sandbox.supervisor import SupervisorProcess

REPO = pathlib.Path(__file__).parents[2]
COUNT_THREADS = """
import threading, time
threading.stack_size(1 << 15)
event, count = threading.Event(), 0
try:
    while count < 5000:
        threading.Thread(target=event.wait, daemon=True).start()
        count += 1
except RuntimeError:
    pass
print(count)
"""


def asked(job, **settings):
    async def go():
        async with ForkJudge(slots=1, memo=0, **settings) as judge:
            return await judge.judge(job), judge.stats()

    return asyncio.run(go())


@pytest.mark.parametrize("tier", ["T0", "T1", "T2"])
def test_threads_are_bounded_in_every_tier(tier):
    limits = Limits(cpu_s=10.0, wall_s=120.0, memory_mb=1024)
    job = Job(COUNT_THREADS, (TestCase("", "x"),), "stdin", limits=limits, keep_output=True)
    verdict, _ = asked(job, highest=tier)
    assert 8 <= int(verdict.cases[0].output) <= 400, verdict


@pytest.mark.hostile
def test_a_bomb_of_threads_costs_the_other_slots_nothing():
    """Also where the kernel counts a program's threads with all that the user runs."""
    script = f"""
import asyncio
from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits
BOMB = {COUNT_THREADS!r} + "time.sleep(60)"
async def main():
    async with ForkJudge(slots=2, memo=0, highest="T0") as judge:
        bomb = Job(BOMB, (TestCase("", "1"),), "stdin", limits=Limits(5.0, 8.0, 1024))
        others = [Job(f"print({{i}})", (TestCase("", f"{{i}}"),), "stdin") for i in range(40)]
        verdicts = await asyncio.gather(judge.judge(bomb), *map(judge.judge, others))
        print([v.passed for v in verdicts].count(True), judge.stats()["zygotes_lost"])
asyncio.run(main())
"""
    run = [sys.executable, "-c", script]
    if os.geteuid() == 0:
        run = [sys.executable, "-B", str(REPO / "tests" / "sandbox" / "as_nobody.py"), "-c", script]
    done = subprocess.run(run, cwd=REPO, capture_output=True, text=True)
    assert done.stdout == "40 0\n" and done.returncode == 0, done.stderr


def test_the_threads_of_a_user_are_counted():
    assert threads_of(os.getuid()) >= 1


@pytest.mark.parametrize("tier", ["T2", pytest.param("T0", marks=pytest.mark.hostile)])
@pytest.mark.parametrize("form", ["stdin", "call", "assertion", "checked"])
def test_a_sigkill_that_a_program_brings_about_is_a_verdict_at_once(form, tier):
    lower = "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n"
    source = lower + ("while True: pass" if form == "stdin" else "def f(x):\n  while True: pass")
    test = {"stdin": TestCase("", "1"), "call": TestCase("[1]", "1")}.get(form)
    test = test or TestCase("assert f(1) == 1" if form == "assertion" else "x = f(1)\nassert x == 1")
    limits = Limits(cpu_s=3.0, wall_s=120.0)
    job = Job(source, (test,), "assertion" if form == "checked" else form, "f", limits=limits)
    verdict, stats = asked(job, highest=tier)
    assert verdict.cases[0].status is Status.RE and "SIGKILL" in verdict.cases[0].detail, verdict
    assert (stats["executions"], stats["zygotes_lost"]) in {(1, 0), (2, 0)}


def test_waiting_past_the_wall_time_is_a_time_verdict_and_working_is_none(runner, judge):
    """The wall time is over long before the CPU time: by one's own doing (sleep), and by the machine's."""
    works = "import time\nwhile time.process_time() < 1.5: pass\nprint(8)"
    for source, status in ((works, Status.AC), ("import time\ntime.sleep(60)", Status.TLE)):
        job = Job(source, (TestCase("", "8"),), "stdin", limits=Limits(cpu_s=4.0, wall_s=1.0))
        case = runner.run(judge.judge(job)).cases[0]
        assert case.status is status, case


def test_seals_reach_no_other_test(runner, judge):
    """A program that may seal its standard output (hosts with vm.memfd_noexec) cannot, or seals its own."""
    source = """
import fcntl
try: fcntl.fcntl(1, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
except OSError: pass
print(8, flush=True)
"""
    verdict = runner.run(judge.judge(Job(source, (TestCase("", "8"),) * 3, "stdin")))
    assert verdict.passed, verdict


@pytest.mark.hostile
def test_the_same_on_a_host_where_every_file_in_memory_can_be_sealed():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    test = f"{__file__}::test_seals_reach_no_other_test"
    command = (
        f"echo 1 > /proc/sys/vm/memfd_noexec && {sys.executable} -m pytest -q -p no:cacheprovider {test}"
    )
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", command], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_a_megabyte_of_errors_is_no_failure(stdin_case):
    assert stdin_case("import sys\nsys.stderr.write('x' * (2 << 20))\nprint('ok')").passed


@pytest.mark.parametrize("cut", [1, 6, 11, 20, 38])
def test_a_torn_record_is_refused(cut):
    whole = wire.RECORD.pack(b"T", 0, 0, 0, 0.1, 7, 3) + b"0123456789"
    assert len(list(wire.records(whole * 2))) == 2
    with pytest.raises(wire.Incomplete, match="torn"):
        list(wire.records((whole * 2)[:-cut]))
    file = os.memfd_create("records")
    with contextlib.closing(open(file, "r+b", buffering=0)) as opened:
        opened.write((whole * 2)[:-cut])
        with pytest.raises(wire.Incomplete, match="torn"):
            list(wire.records_in(file))


def test_counters_survive_a_supervisor_and_nothing_is_left_unseen(capfd):
    """Nothing is said on standard error of exceptions that nobody waited for."""

    async def go():
        seen = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
        team = SupervisorProcess(SlotSettings(count=1))
        jobs = [Job(f"print({i})", (TestCase("", f"{i}"),), "stdin") for i in range(12)]
        for job in jobs[:4]:
            assert (await team.judge(job)).passed
        assert team.executions == 4
        tasks = [asyncio.create_task(team.judge(job)) for job in jobs[4:]]
        tasks[0].cancel()
        await asyncio.sleep(0)
        os.kill(team._process.pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(verdict.passed for verdict in found[2:]), found
        assert team.executions >= 4 + 6
        await team.close()
        return seen

    assert asyncio.run(go()) == [] and capfd.readouterr().err == ""
