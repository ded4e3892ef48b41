"""Assertion problems in call form: only where each test is one call with literals."""

import pathlib

import pytest

from o1jax.prepare.choose import as_calls
from o1jax.problems.load import load_problems
from o1jax.records import Problem, TestCase

MBPP = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mbpp" / "mbpp.jsonl"


def problem(*asserts, **fields):
    return Problem(
        "p", "?", "assertion", hidden_tests=tuple(map(TestCase, asserts)), entry_point="f", **fields
    )


def test_arguments_and_value_become_literals():
    made = as_calls(problem("assert f([1, 'a'], (2,)) == {3}", "assert f() == None", setup="import math"))
    assert made.form == "call" and made.setup == "import math" and not made.tests
    assert made.hidden_tests == (TestCase("[[1, 'a'], (2,)]", "{3}"), TestCase("[]", "None"))


@pytest.mark.parametrize(
    "text",
    [
        "assert set(f(1)) == {1}",
        "assert f(x) == 1",
        "assert f(a=1) == 1",
        "assert f(*[1]) == 1",
        "assert f(1) == set([1])",
        "assert f(1)",
        "assert f(1) != 2",
        "assert 0 < f(1) == 2",
        "assert g(1) == 1",
        "assert f(1) == 1; assert f(2) == 2",
        "f(1) == 1",
        "",
        "assert f(",
        "assert f(1) == " + "-" * 9999 + "1",
    ],
)
def test_any_other_test_leaves_the_problem_as_it_is(text):
    kept = problem("assert f(1) == 1", text)
    assert as_calls(kept) == kept


def test_problems_of_other_forms_stay():
    other = Problem("p", "?", "stdin", tests=(TestCase("1", "2"),))
    assert as_calls(other) is other


@pytest.mark.skipif(not MBPP.exists(), reason=f"no MBPP at {MBPP}")
def test_nearly_all_of_mbpp_is_calls():
    made = [as_calls(p) for p in load_problems(f"mbpp:{MBPP}").problems]
    assert [p.form for p in made].count("call") >= 967
