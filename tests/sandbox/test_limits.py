"""Limits that a right program can keep: made wide enough for the tests, or refused."""

import asyncio

import pytest

from o1jax.records import InputError, Status, TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits

SMALL = Limits(cpu_s=2.0, wall_s=60.0, output_bytes=1 << 12)
LONG = repr(["\u00e9\u20ac" * 10] * 500)
RETURNS = "def f(): return ['\u00e9\u20ac' * 10] * 500"


@pytest.mark.parametrize(
    "form, source, test",
    [
        ("stdin", "print(('7' * 64 + '  \\n') * 200)", TestCase("", ("7" * 64 + "\n") * 200)),
        ("call", RETURNS, TestCase("[]", LONG)),
        ("assertion", RETURNS, TestCase(f"assert f() == {LONG}")),
        ("assertion", RETURNS, TestCase(f"found = f()\nassert found == {LONG}")),
    ],
)
def test_an_output_that_a_test_expects_is_below_the_cap(runner, judge, form, source, test):
    job = Job(source, (test,), form, entry_point="f", limits=SMALL)
    assert runner.run(judge.judge(job)).passed


def test_a_flood_is_capped_still(runner, judge):
    job = Job("while True: print('7' * 64)", (TestCase("", "7" * 9000),), "stdin", limits=SMALL)
    case = runner.run(judge.judge(job)).cases[0]
    assert case.status is Status.OLE and case.detail == "more than 18064 bytes"


@pytest.mark.parametrize("limit", [{"cpu_s": 0.001}, {"wall_s": 0.001}, {"memory_mb": 1}])
def test_a_limit_below_the_interpreters_own_need_is_refused(runner, judge, limit):
    job = Job("print(1)", (TestCase("", "1"),), "stdin", limits=Limits(**limit))
    with pytest.raises(InputError, match=f"limit {next(iter(limit))}: saw .* which no program keeps"):
        runner.run(judge.judge(job))


@pytest.mark.parametrize("packages", [(), ("numpy",)])
def test_the_memory_of_the_interpreter_and_its_packages_is_no_programs(packages):
    async def go(taken_mb):
        async with ForkJudge(slots=1, packages=packages) as judge:
            source = f"import decimal\ntaken = bytearray({taken_mb} << 20)\nprint(1)"
            limits = Limits(cpu_s=2.0, wall_s=60.0, memory_mb=32)
            return await judge.judge(Job(source, (TestCase("", "1"),), "stdin", limits=limits))

    assert asyncio.run(go(16)).passed
    assert asyncio.run(go(64)).cases[0].status is Status.MLE
