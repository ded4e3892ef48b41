"""What a program says without end costs the judging process neither memory nor its event loop's time."""

import json
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parents[2]
ABOVE_IDLE_MB = 64
TRUNCATE = "import os, resource\nos.ftruncate({}, resource.getrlimit(resource.RLIMIT_FSIZE)[0])\nos._exit(0)"
ENDLESS = "import os\ntry:\n  while True: os.write({}, {})\nexcept OSError: os._exit(0)"
ROUNDS = "import os\ndef f(x):\n  os.write(3, {})\n  return 0"
# name: (form, program); each is given a hundred tests.
FLOODS = {
    "truncated answers": ("call", TRUNCATE.format(3)),
    "newlines": ("call", ENDLESS.format(3, "b'\\n' * (1 << 20)")),
    "one line without end": ("call", ENDLESS.format(3, "b'x' * (1 << 20)")),
    "a line of a mebibyte a test": ("call", ROUNDS.format("b'[' * ((1 << 20) - 64) + b'\\n'")),
    "a flood of newlines a test": ("call", "import os\ndef f(x):\n  os.write(3, b'\\n' * 99)\n  os._exit(0)"),
    "values just below the cap": ("call", "def f(x): return [[]] * 250_000"),
    "objects just below the cap": ("call", "def f(x): return [{0: 0}] * 55_000"),
    "numbers just below the cap": ("call", "def f(x): return [0.5] * 200_000"),
    "answers of functions that are asserted": ("assertion", ENDLESS.format(3, "b'\\n' * (1 << 20)")),
    "values that are asserted": ("assertion", "def f(x): return [[]] * 250_000"),
    "answers to a checker": ("checked", ENDLESS.format(3, "b'x' * (1 << 20)")),
    "lines for a checker": ("checked", ENDLESS.format(3, "b'{}\\n' * (1 << 18)")),
    "output": ("stdin", ENDLESS.format(1, "b'x' * (1 << 20)")),
    "truncated output": ("stdin", TRUNCATE.format(1)),
    "output just below the cap": ("stdin", "print('7 ' * ((1 << 19) - 8))"),
    "lines just below the cap": ("stdin", "print('7\\n' * ((1 << 19) - 8))"),
    "empty lines just below the cap": ("stdin", "print('\\n' * ((1 << 20) - 8))"),
    "errors": ("stdin", ENDLESS.format(2, "b'x' * (1 << 20)")),
    "lines of errors": ("stdin", ENDLESS.format(2, "b'\\n' * (1 << 20)")),
}
SHORT = {"truncated answers", "newlines", "values just below the cap", "lines just below the cap"}
SCRIPT = """
import asyncio, json, pathlib, sys, time
from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits

def mb(what):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith(what))

async def note_turns(turns):
    while True:
        before = time.thread_time()
        await asyncio.sleep(0.005)
        turns.append(time.thread_time() - before)

async def main(form, source):
    test = {"stdin": TestCase("1", "1"), "call": TestCase("[1]", "1")}.get(form)
    test = test or TestCase("assert f(1) == 1" if form == "assertion" else "x = f(1)\\nassert x == 1")
    tests, limits = (test,) * 100, Limits(1.0, 60.0)
    async with ForkJudge(slots=2, memo=0) as judge:
        await judge.judge(Job("pass", tests[:1], "stdin"))
        idle, turns = mb("VmRSS"), []
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        noting = asyncio.create_task(note_turns(turns))
        form = "assertion" if form == "checked" else form
        jobs = [Job(source + f"  # {i}", tests, form, "f", limits=limits) for i in range(2)]
        verdicts = await asyncio.gather(*map(judge.judge, jobs))
        noting.cancel()
        found = sorted({case.status.value for verdict in verdicts for case in verdict.cases})
        print(json.dumps([mb("VmHWM") - idle, max(turns), found]))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.hostile) for name in FLOODS]
)
def test_a_flood_is_capped(name):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *FLOODS[name]], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    above_idle_mb, longest_turn_s, statuses = json.loads(done.stdout)
    assert not {"AC", "PE", "SANDBOX_ERROR"} & set(statuses), statuses
    assert above_idle_mb < ABOVE_IDLE_MB, (above_idle_mb, statuses)
    # One turn of the event loop is at most one call of the parser's on one answer: in CPU time, for a loaded
    # machine.
    assert longest_turn_s < 2.0, (longest_turn_s, statuses)
