"""Executions a second of ForkJudge beside its plain peer, `python program.py`, in one run.

    python tests/sandbox/benchmark.py [programs]

Prints one JSON line: executions/s of both (stdin form, ten tests a program), tests/s in call form, and
the ratio. Rounds alternate, so that other load on the machine falls on both sides alike.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time

from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job

STDIN = "a, b = map(int, input().split())\nprint(a + b)  # {}"
CALL = "def f(a, b): return [a] + b  # {}"
N_TESTS, ROUNDS, SLOTS = 10, 4, 2


async def judged(judge: ForkJudge, form: str, source: str, tests: tuple, programs: int, tag: int) -> float:
    """Seconds for `programs` different programs at once."""
    jobs = [Job(source.format((tag, i)), tests, form, "f") for i in range(programs)]
    started = time.perf_counter()
    verdicts = await asyncio.gather(*map(judge.judge, jobs))
    assert all(verdict.passed for verdict in verdicts)
    return time.perf_counter() - started


async def plain(path: str, executions: int) -> float:
    """Seconds for `executions` runs of `python file`, as many at once as there are slots."""

    async def worker(n: int) -> None:
        for _ in range(n):
            process = await asyncio.create_subprocess_exec(
                sys.executable, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert (await process.communicate(b"1 2\n"))[0] == b"3\n"

    started = time.perf_counter()
    await asyncio.gather(*[worker(executions // SLOTS) for _ in range(SLOTS)])
    return time.perf_counter() - started


async def main(programs: int) -> None:
    stdin = tuple(TestCase(f"{i} 2\n", f"{i + 2}\n") for i in range(N_TESTS))
    call = tuple(TestCase(f"[{i}, [2]]", f"[{i}, 2]") for i in range(N_TESTS))
    seconds = {"stdin": 0.0, "call": 0.0, "python_file": 0.0}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        print(STDIN.format(0), file=file, flush=True)
        async with ForkJudge(slots=SLOTS, memo=0) as judge:
            for tag in range(ROUNDS):
                seconds["stdin"] += await judged(judge, "stdin", STDIN, stdin, programs, tag)
                seconds["call"] += await judged(judge, "call", CALL, call, programs, tag)
                seconds["python_file"] += await plain(file.name, programs)
            isolation = judge.isolation
    tests = ROUNDS * programs * N_TESTS
    rates = {"stdin": tests / seconds["stdin"], "call": tests / seconds["call"]}
    rates["python_file"] = ROUNDS * programs / seconds["python_file"]
    ratio = rates["stdin"] / rates["python_file"]
    figures = {"isolation": isolation, "slots": SLOTS, "tests_per_s": rates, "ratios": {"python_file": ratio}}
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
