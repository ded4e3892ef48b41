"""The judge as a service: order, concurrency, cancellation, lost processes, nothing left behind."""

import asyncio
import contextlib
import dataclasses
import errno
import gc
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from o1jax import sandbox
from o1jax.records import GRADERS, InputError, Problem, Status, TestCase
from o1jax.sandbox import graders, slots, verdicts, wire
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits, SandboxError, job_of

ECHO = "print(input())"
SLEEP = "import time\ntime.sleep(60)"
PATIENT = Limits(cpu_s=5.0, wall_s=60.0)
REPO = pathlib.Path(__file__).parents[2]


def echo(n: int, tag: str = "") -> Job:
    return Job(
        f"{ECHO}  # {tag}", tuple(TestCase(f"{i}\n", f"{i}\n") for i in range(n)), "stdin", limits=PATIENT
    )


def below(pid: int) -> set[int]:
    """The processes that a process has started, and those that these have."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    """Those that run: one that has ended has no command line."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def wait_until(condition, seconds: float = 120.0) -> bool:
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
    before = set(threading.enumerate())
    runner.run(judge.judge(echo(1, "threads")))
    assert set(threading.enumerate()) == before


def test_stop_at_failure_leaves_the_rest_unrun(runner, judge):
    tests = tuple(TestCase(f"{i}\n", f"{i % 4}\n") for i in range(9))
    job = Job(ECHO, tests, "stdin", limits=PATIENT, stop_at_failure=True)
    cases = runner.run(judge.judge(job)).cases
    assert [case.status for case in cases] == [Status.AC] * 4 + [Status.WA] + [Status.NORESULT] * 4
    assert cases[-1].detail == "not run"


def test_stop_at_failure_changes_no_passing_verdict(runner, judge):
    job = Job("def f(x): return x", (TestCase("[1]", "1"),) * 5, "call", "f", stop_at_failure=True)
    assert runner.run(judge.judge(job)).passed


def test_stop_at_failure_changes_no_time(runner, judge):
    """A test's time is its own in call form, and a program is loaded once for all of them, in the first's."""
    spin = "from time import process_time as t\ndef spin(s):\n  end = t() + s\n  while t() < end: pass\n"
    slow = spin + "def f(x):\n  spin(0.1)\n  return x"
    slow_to_load = spin + "spin(0.15)\ndef f(x): return x"
    too_slow = spin + "def f(x):\n  spin(0.1 if x < 6 else 0.6)\n  return x"
    tests = tuple(TestCase(f"[{i}]", f"{i}") for i in range(7))
    limits = Limits(cpu_s=0.35, wall_s=60.0)
    for source, passes in ((slow, True), (slow_to_load, True), (too_slow, False)):
        job = Job(source, tests, "call", "f", limits=limits)
        for stop in (False, True):
            verdict = runner.run(judge.judge(dataclasses.replace(job, stop_at_failure=stop)))
            assert verdict.passed is passes, verdict
            assert passes or [case.status for case in verdict.cases] == [Status.AC] * 6 + [Status.TLE]


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


def nothing_found(file):
    return iter(())


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(slots, "PAUSES_S", (0.0, 0.0))


def test_a_job_that_the_infrastructure_fails_on_is_lost_named_and_counted(monkeypatch, no_pauses):
    async def go():
        async with ForkJudge(slots=1) as judge:
            job = dataclasses.replace(echo(2), name="set/7")
            monkeypatch.setattr("o1jax.sandbox.wire.records_in", nothing_found)
            verdict = await judge.judge(job)
            assert verdict.lost and not verdict.passed and not verdict.compiled
            assert [case.status for case in verdict.cases] == [Status.SANDBOX_ERROR] * 2
            assert verdict.cases[0].detail.startswith("set/7: no verdict after 3 attempts")
            assert judge.stats()["jobs_lost"] == 1 and judge.stats()["zygotes_lost"] == 3
            monkeypatch.undo()
            assert (await judge.judge(job)).passed  # not remembered

    asyncio.run(go())


def test_above_a_share_of_lost_jobs_the_judge_stops(monkeypatch, no_pauses):
    async def go():
        async with ForkJudge(slots=1) as judge:
            monkeypatch.setattr("o1jax.sandbox.wire.records_in", nothing_found)
            assert all([(await judge.judge(echo(1, str(i)))).lost for i in range(3)])
            with pytest.raises(SandboxError, match="4 of 4 programs could not be judged") as caught:
                await judge.judge(echo(1, "one more"))
            assert "more than 3 and 5%" in str(caught.value) and "\n" not in str(caught.value)

    asyncio.run(go())


def test_retries_pause(monkeypatch):
    slept, sleep = [], asyncio.sleep

    async def noted(seconds):
        slept.append(seconds)
        await sleep(0)

    async def go():
        async with ForkJudge(slots=1) as judge:
            monkeypatch.setattr("o1jax.sandbox.wire.records_in", nothing_found)
            monkeypatch.setattr(asyncio, "sleep", noted)
            await judge.judge(echo(1))

    asyncio.run(go())
    # The second outlasts what a program may wait by default, with all that it has taken from the others.
    assert [s for s in slept if s > 0.01] == [0.1, 10.0] and slots.PAUSES_S[1] > Limits().wall_s


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


def test_a_program_cannot_say_that_it_was_killed_from_outside(runner, judge):
    text = "killed from outside"
    lost = judge.stats()["zygotes_lost"]
    spoof = f"import os, sys\nprint({text!r}, file=sys.stderr)\nsys.exit(1)"
    assert runner.run(judge.judge(Job(spoof, (TestCase(""),), "stdin"))).cases[0].detail == text
    answer = f'{{"e": "RE", "d": "{text}"}}\n'
    spoof = f"import os\nos.write(3, {answer!r}.encode())\ndef f(): return 1"
    assert runner.run(judge.judge(Job(spoof, (TestCase("[]", "1"),), "call", "f"))).cases[0].detail == text
    assert judge.stats()["zygotes_lost"] == lost


def test_killed_from_outside_is_sigkill_with_time_left():
    job = Job("", (TestCase(""),), "stdin", limits=Limits(cpu_s=1.0))

    def killed(status, over, cpu_s):
        return verdicts.killed_from_outside(job, wire.Record(b"T", 0, status, over, cpu_s, b"", b""))

    assert killed(signal.SIGKILL, 0, 0.1)
    assert not killed(signal.SIGKILL, wire.WALL, 0.1) and not killed(signal.SIGKILL, 0, 1.0)
    assert not killed(signal.SIGTERM, 0, 0.1) and not killed(1 << 8, 0, 0.1)
    assert not killed(signal.SIGKILL, wire.OWN, 0.1)


def files_open() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("call", ["os.memfd_create", "subprocess.Popen"])
def test_too_many_open_files_are_an_infrastructure_failure_and_leave_none(monkeypatch, no_pauses, call):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    async def go():
        async with ForkJudge(slots=1) as judge:
            await judge._teams[0]._discard(0)
            with monkeypatch.context() as patched:
                patched.setattr(call, refuse)
                verdict = await judge.judge(echo(1))
                assert verdict.lost and "Too many open files" in verdict.cases[0].detail
            assert (await judge.judge(echo(1))).passed
            if call == "os.memfd_create":  # now of a parent that is warm
                with monkeypatch.context() as patched:
                    patched.setattr(call, refuse)
                    assert "Too many open files" in (await judge.judge(echo(2))).cases[0].detail

    asyncio.run(go())
    gc.collect()  # files of earlier tests that wait for the collector are not this one's
    before = files_open()
    asyncio.run(go())
    assert files_open() <= before


def test_an_output_past_the_limit_is_not_sent(runner, judge, monkeypatch):
    sizes, records = [], wire.records_in
    monkeypatch.setattr(
        wire, "records_in", lambda file: sizes.append(os.fstat(file).st_size) or records(file)
    )
    case = runner.run(judge.judge(Job("print('x' * (2 << 20))", (TestCase(""),), "stdin"))).cases[0]
    assert case.status is Status.OLE and sizes[0] < 1000


def test_bulky_outputs_are_judged_beside_the_event_loop(runner, judge, monkeypatch):
    """Others on it have their turns meanwhile; one thread, so that one answer is in memory at a time."""
    seen, grade = [], graders.grade_stdout

    def noted(*fields):
        seen.append(threading.current_thread().name)
        return grade(*fields)

    monkeypatch.setattr(graders, "grade_stdout", noted)
    job = Job("print('ab ' * 90_000)", (TestCase("", "ab " * 90_000),) * 2, "stdin", limits=PATIENT)
    assert runner.run(judge.judge(job)).passed
    assert len(set(seen)) == 1 and seen[0].startswith("grading")


def test_what_a_program_says_of_its_failure_can_be_written(runner, judge):
    raises = "def f():\n    raise ValueError('no ' + chr(0xD800))\n"
    (case,) = runner.run(judge.judge(Job(raises, (TestCase("[]", "1"),), "call", "f"))).cases
    assert case.detail.encode().decode() == r"ValueError: no \ud800"


def test_flags_of_a_file_reach_no_other_program(call_cases, runner, judge):
    source = """
import fcntl, os
def f():
    flags = fcntl.fcntl(1, fcntl.F_GETFL)
    fcntl.fcntl(1, fcntl.F_SETFL, flags | os.O_APPEND | os.O_NONBLOCK)
    return flags & (os.O_APPEND | os.O_NONBLOCK)
"""
    assert all(call_cases(source, ("[]", "0"))[0].passed for _ in range(4))
    job = Job(source + "print(f())", (TestCase("", "0"),) * 3, "stdin", limits=PATIENT)
    assert runner.run(judge.judge(job)).passed


def test_a_problems_own_grader_judges(runner, judge):
    for grader, source, expected, passes in (
        ("", "print('b a')", "B a", False),
        ("fold_case", "print('b a')", "B a", True),
        ("unordered", "print('a'); print('b')", "b\na", True),
        ("", "print(1.00)", "1.00", True),
        ("exact", "print(1.00)", "1.00", False),
    ):
        problem = Problem("p", "?", "stdin", (TestCase("", expected),), grader=grader)
        verdict = runner.run(judge.judge(job_of(problem, source, problem.tests, PATIENT)))
        assert verdict.passed is passes, grader
    assert set(GRADERS) <= graders.STDOUT.keys()


def test_malformed_jobs_are_the_users_error(runner, judge):
    for job, message in (
        (Job("", (), "Stdin"), "form: saw 'Stdin', wanted one of .'stdin', 'call', 'assertion'"),
        (Job("def f(): pass", (TestCase("[]", "1"),), "call"), "entry_point: saw none"),
        (Job(b"print(1)", (TestCase("", "1"),), "stdin"), "source: saw bytes, wanted text"),
        (Job("", (TestCase("x = f()\nassert x"),), "assertion", setup="import"), "a setup is not Python"),
    ):
        with pytest.raises(InputError, match=message):
            runner.run(judge.judge(job))


@pytest.mark.parametrize(
    "wrong",
    [{"cpu_s": 0}, {"cpu_s": float("inf")}, {"wall_s": float("nan")}, {"memory_mb": -1}, {"output_bytes": 0}],
)
def test_limits_are_finite_and_above_zero(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"limits: saw {name} .*, wanted a finite number above 0"):
        Limits(**wrong)


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="saw darwin, wanted linux"):
        ForkJudge(slots=1, insecure=True)


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
    script = f"""
import asyncio
from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits
async def main():
    async with ForkJudge(slots=2, memo=0) as judge:
        job = Job({SLEEP!r}, (TestCase(""),), "stdin", limits=Limits(5, 600))
        await asyncio.gather(judge.judge(job), judge.judge(job))
asyncio.run(main())
"""
    supervisor = subprocess.Popen([sys.executable, "-c", script], cwd=REPO)
    try:
        # Two warm parents, two programs' processes and their executions.
        assert wait_until(lambda: len(below(supervisor.pid)) >= 6)
        started = below(supervisor.pid)
    finally:
        supervisor.kill()
        supervisor.wait()
    assert wait_until(lambda: not alive(started))


def test_close_leaves_no_process():
    async def go():
        before = below(os.getpid())
        async with ForkJudge(slots=2) as judge:
            assert (await judge.judge(echo(1))).passed
            return below(os.getpid()) - before

    started = asyncio.run(go())
    assert len(started) >= 2 and wait_until(lambda: not alive(started))


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


def test_the_example_of_the_docstring_runs(capsys):
    example = sandbox.__doc__.split("\n\n    ", 1)[1].split("\n\n`")[0]
    exec(compile(textwrap.dedent("    " + example), "example", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("True ")


def test_command_line_prints_the_tier():
    done = subprocess.run([sys.executable, "-m", "o1jax.sandbox"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("isolation: ") and "AC" in done.stdout
