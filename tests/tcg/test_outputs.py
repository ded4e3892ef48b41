"""What programs print and return, through a real judge."""

import asyncio

import pytest

from o1jax.problems.ladder.problems import make_problems
from o1jax.records import InputError, Problem
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.sandbox.interface import Limits
from o1jax.tcg.traces import outputs_matrix, outputs_of

LIMITS = Limits(cpu_s=0.5, wall_s=4.0, memory_mb=256)
STDIN = Problem("stdin", "q", "stdin")
CALL = Problem("call", "q", "call", entry_point="f")


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def judge(runner):
    judge = ForkJudge(slots=2, memo=0)
    runner.run(judge.__aenter__())
    yield judge
    runner.run(judge.close())


@pytest.fixture(scope="module")
def ask(runner, judge):
    return lambda problem, source, *inputs: runner.run(outputs_of(judge, problem, source, inputs, LIMITS))


def test_printed_text_is_kept_as_it_is(ask):
    assert ask(STDIN, "print(int(input()) + 1)", "1\n", "2", "x\n") == ["2\n", "3\n", None]
    assert ask(STDIN, "print(1)") == []


@pytest.mark.parametrize(
    "source",
    ["print(", "pass", "print(1); 1 / 0", "print(1); exit(3)", "while True: pass",
     "import sys; sys.stdout.buffer.write(b'\\xff')"],
)  # fmt: skip
def test_what_ends_badly_or_prints_nothing_has_no_output(ask, source):
    assert ask(STDIN, source, "") == [None]


def test_exit_with_status_zero_after_printing_is_an_output(ask):
    assert ask(STDIN, "import sys\nprint(input())\nsys.exit(0)", "a") == ["a\n"]


def test_returned_values_come_as_literals(ask):
    assert ask(CALL, "def f(x, y=1): return {'a': [x + y]}", "[1, 2]", "(4,)") == ["{'a': [3]}", "{'a': [5]}"]
    assert ask(CALL, "class Solution:\n    def f(self, x): return x", "['a\\nb']") == ["'a\\nb'"]
    assert ask(CALL, "def f(x):\n    print('noise', end='')\n    return None", "[0]") == ["None"]
    assert ask(CALL, "from __future__ import annotations\ndef f(x): return -x", "[1]") == ["-1"]
    assert ask(CALL, "def f(): return 0\nif __name__ == '__main__': print(input())", "[]") == ["0"]


def test_tuples_are_lists_only_where_values_came_through_json(ask):
    source = "def f(x): return (x, {1: (2,)})"
    assert ask(CALL, source, "[1]") == ["[1, {1: [2]}]"]
    plain = Problem("plain", "q", "call", entry_point="f", json_values=False)
    assert ask(plain, source, "[1]") == ["(1, {1: (2,)})"]


@pytest.mark.parametrize("value", ["object()", "float('nan')", "(i for i in x)", "print", "'a' * 70_000"])
def test_a_value_without_a_literal_is_no_output(ask, value):
    assert ask(CALL, f"def f(x): return {value}", "[[1]]") == [None]


def test_an_integer_of_ten_thousand_digits_is_a_value(ask):
    assert ask(CALL, "def f(): return 10 ** 9_999", "[]") == ["1" + "0" * 9_999]


@pytest.mark.parametrize("text", ["", "1", "'ab'", "[__import__('os')]", "[1", "[1, 2, 3]"])
def test_malformed_arguments_are_no_output(ask, text):
    assert ask(CALL, "def f(x, y=1): return 1", text) == [None]


def test_setup_serves_the_program_and_may_use_it(ask):
    setup = Problem("setup", "q", "call", entry_point="f", setup="import math\nBASE = f(2)")
    assert ask(setup, "def f(x): return math.floor(x)", "[2.5]") == ["2"]
    assert ask(setup, "K = math.floor(3.5)\ndef f(x): return K", "[0]") == ["3"]
    assert ask(setup, "BASE = 7\ndef f(x): return BASE", "[0]") == ["7"]
    solution = "from math import floor as f\nclass Solution:\n  def f(self, x): return -1"
    assert ask(setup, solution, "[2.5]") == ["-1"]


def test_a_prelude_runs_before_the_program(ask):
    called = Problem("p", "q", "call", entry_point="gcd", prelude="from math import gcd, sqrt")
    assert ask(called, "def gcd(x): return sqrt(x)", "[4]") == ["2.0"]
    assert ask(called, "class Solution:\n  def gcd(self, x): return gcd(x, 6)", "[4]") == ["2"]
    assert ask(called, "def another(x): return 1", "[4, 6]") == [None]
    printed = Problem("p", "q", "stdin", prelude="from math import sqrt")
    assert ask(printed, "print(sqrt(4))", "") == ["2.0\n"]


def test_assertion_form_is_refused(ask):
    with pytest.raises(InputError, match="assertion"):
        ask(Problem("a", "q", "assertion"), "x = 1", "assert x")


def test_references_of_the_ladder_give_the_outputs_of_its_tests(runner, judge):
    for problem in make_problems("held_out", {2: 4, 3: 4}, seed=2):
        inputs = [test.input for test in problem.hidden_tests]
        wanted = [test.output for test in problem.hidden_tests]
        found = runner.run(outputs_matrix(judge, problem, problem.solutions, inputs, LIMITS))
        assert found == [wanted, wanted], problem.id
