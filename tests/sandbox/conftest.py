"""One judge for all sandbox tests, on one event loop, and a short way to ask it."""

import asyncio

import pytest

from o1jax.records import TestCase
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Job, Limits

SHORT = Limits(cpu_s=0.5, wall_s=60.0, memory_mb=256)


@pytest.fixture(scope="session")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def judges(runner):
    """A judge of each tier that is asked for, started once."""
    started = {}

    def of(tier):
        if tier not in started:
            started[tier] = ForkJudge(slots=2, memo=0, highest=tier)
            runner.run(started[tier].__aenter__())
        return started[tier]

    yield of
    for judge in started.values():
        runner.run(judge.close())


@pytest.fixture(scope="session")
def judge(judges):
    return judges("T2")


@pytest.fixture(scope="session")
def stdin_case(runner, judge):
    """The result of a program on one stdin test."""

    def ask(source, stdin="", expected="ok\n", limits=SHORT):
        job = Job(source, (TestCase(stdin, expected),), "stdin", limits=limits)
        return runner.run(judge.judge(job)).cases[0]

    return ask


@pytest.fixture(scope="session")
def call_cases(runner, judge):
    """The results of function f on call-form tests, given as (arguments, value) literals."""

    def ask(source, *tests, limits=SHORT, **fields):
        cases = tuple(TestCase(arguments, value) for arguments, value in tests)
        job = Job(source, cases, "call", entry_point="f", limits=limits, **fields)
        return runner.run(judge.judge(job)).cases

    return ask


@pytest.fixture(scope="session")
def assertion_cases(runner, judge):
    """The results of a program on assertion tests."""

    def ask(source, *tests, setup="", limits=SHORT, **fields):
        job = Job(source, tuple(map(TestCase, tests)), "assertion", setup=setup, limits=limits, **fields)
        return runner.run(judge.judge(job)).cases

    return ask
