"""Traces say what a program goes through, through the real sandbox, and never more than it says itself."""

import asyncio
import dataclasses

import pytest

from o1jax.problems.ladder import problems as ladder
from o1jax.records import InputError, Problem
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits
from o1jax.tcg.traces import traced_cases

STDIN = Problem("s", "?", "stdin")
CALL = Problem("c", "?", "call", entry_point="f")
SHORT = Limits(cpu_s=0.5, wall_s=4.0)


@pytest.fixture(scope="module")
def trace():
    with asyncio.Runner() as runner:
        judge = ForkJudge(slots=1)

        def ask(problem, source, *inputs):
            return runner.run(traced_cases(judge, problem, source, inputs, SHORT))

        yield ask
        runner.run(judge.close())


def test_the_value_after_every_line_that_changes_one(trace):
    source = "x = int(input())\ny = 0\nfor i in range(x):\n    y += i\nx = y\nprint(x + 1)\n"
    (case,) = trace(STDIN, source, "4\n")
    assert case.trace == ("x = int(input()) -> 4", "for i in range(x): -> 6")
    assert case.test.output == "7\n"  # x = y repeats, y = 0 says nothing


def test_a_call_is_traced_inside_the_function(trace):
    source = "def f(x, k):\n    y = []\n    for v in x:\n        y.append(v * k)\n    return sum(y)\n"
    cases = trace(CALL, source, "[[1, 2], 3]", "[[], 3]")
    assert [case.trace for case in cases] == [("for v in x: -> 3 6",), ("for v in x: -> []",)]
    assert [case.test.output for case in cases] == ["9", "0"]


def test_both_references_of_ladder_problems_give_the_stated_outputs(trace):
    for problem in ladder.make_problems("held_out", {2: 6, 3: 6}, 3):
        for source in problem.solutions:
            cases = trace(problem, source, *(test.input for test in problem.hidden_tests))
            assert [case.test for case in cases] == list(problem.hidden_tests)
            assert all(case.trace for case in cases)


def test_an_input_on_which_the_program_fails_has_no_case_and_the_others_have(trace):
    cases = trace(STDIN, "x = int(input())\nprint(6 // x)\n", "2\n", "0\n", "x\n")
    assert [case and case.test.output for case in cases] == ["3\n", None, None]


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import os\nos.write(1, b'[[[], 1]]')\nprint(1)",
        "import os\nos._exit(0)",
        "x = 1\nfor i in range(100):\n    x = x + 1\n    y = x\n" + "z = x\nz = y\n" + "z += 1\n" * 60,
    ],
)
def test_a_program_that_does_not_end_or_answers_for_the_driver_gives_nothing(trace, source):
    assert trace(STDIN, source, "1\n") == [None]


def test_exit_0_is_an_end_and_a_name_that_is_not_bound_is_no_value(trace):
    source = "x = input()\nif x == 'b':\n    y = 1\nprint(x)\nraise SystemExit(0)\n"
    cases = trace(STDIN, source, "a\n", "b\n")
    assert [(case.trace, case.test.output) for case in cases] == [
        (("x = input() -> a",), "a\n"),
        (("x = input() -> b", "if x == 'b': -> 1"), "b\n"),
    ]


@pytest.mark.parametrize(
    "read",
    [
        "open(0).read()",
        "os.read(0, 99).decode()",
        "sys.stdin.buffer.read().decode()",
        "(kept := (lambda: kept, open(0)))[1].read()",  # a file that only the collector closes
    ],
)
def test_input_may_be_read_in_any_way(trace, read):
    source = f"import gc, os, sys\ngc.collect()\nx = int({read})\nprint(x + 1)\n"
    inputs = [f"{i}\n" for i in range(20)]
    assert [case.test.output for case in trace(STDIN, source, *inputs)] == [f"{i + 1}\n" for i in range(20)]
    assert trace(STDIN, "print(len(input()))", "a" * 200_000)[0].test.output == "200000\n"


def test_setup_and_a_method_of_solution_are_called_as_the_judge_calls_them(trace):
    problem = dataclasses.replace(CALL, setup="from typing import List\nTWO = two()\n")
    for source in (
        "def f(x: List[int]):\n    y = x[0] * TWO\n    return y\n",
        "class Solution:\n    def f(self, x: List[int]):\n        y = x[0] * TWO\n        return y\n",
    ):
        (case,) = trace(problem, "two = lambda: 2\n" + source, "[[3]]")
        assert case.test.output == "6" and case.trace == ("y = x[0] * TWO -> 6",)


def test_many_inputs_do_not_share_the_limits_of_one(trace):
    slow = "x = int(input())\nfor i in range(4_000_000):\n    pass\nprint('a' * 140_000)\n"
    cases = trace(STDIN, slow, *(f"{i}\n" for i in range(16)))
    assert all(case is not None and len(case.test.output) == 140_001 for case in cases)


def test_a_value_that_is_an_address_is_not_shown(trace):
    (case,) = trace(STDIN, "x = map(int, input().split())\ny = sum(x)\nprint(y)\n", "1 2\n")
    assert case.trace == ("y = sum(x) -> 3",)


def test_what_cannot_be_traced_is_named(trace):
    with pytest.raises(InputError, match="does not parse"):
        trace(STDIN, "print(", "1\n")
    with pytest.raises(InputError, match="does not parse"):
        trace(STDIN, "x = 1\0", "1\n")
    with pytest.raises(InputError, match="assertion"):
        trace(Problem("a", "?", "assertion"), "x = 1", "1\n")
