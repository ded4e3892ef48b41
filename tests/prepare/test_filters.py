"""Which problems are wanted, and how many of their tests."""

import dataclasses

import pytest

from o1jax.parallel.seeds import stable_hash
from o1jax.prepare.choose import Filter, unwanted, with_tests
from o1jax.records import Problem, TestCase

PROBLEM = Problem("a", "Sort it.", "stdin", difficulty="EASY", tags=("Sorting", "Math"))
HASH = stable_hash("a") / 2**64
TESTS = tuple(TestCase(str(i)) for i in range(3))


@pytest.mark.parametrize(
    "wanted, reason",
    [
        (Filter(), ""),
        (Filter(ids=("a",), difficulties=("EASY",), tags=("Math", "Graphs"), forms=("stdin", "call")), ""),
        (Filter(min_characters=8, max_characters=8), ""),
        (Filter(ids=("b",)), "id"),
        (Filter(difficulties=("HARD",)), "difficulty"),
        (Filter(tags=("Graphs",)), "tags"),
        (Filter(forms=("assertion",)), "form"),
        (Filter(hashed=(0.0, HASH)), "hash"),
        (Filter(hashed=(HASH, 1.0)), ""),
        (Filter(min_characters=9), "too short"),
        (Filter(max_characters=7), "too long"),
    ],
)
def test_an_unwanted_problem_says_why(wanted, reason):
    assert unwanted(PROBLEM, wanted) == reason


def test_tests_are_capped_in_order():
    both = dataclasses.replace(PROBLEM, tests=TESTS, hidden_tests=TESTS)
    capped = with_tests(both, shown=0, most=2)
    assert capped.tests == capped.hidden_tests == TESTS[:2]
    assert with_tests(both, shown=1, most=0) == both


def test_hidden_tests_are_shown_only_where_there_are_no_others():
    hidden = dataclasses.replace(PROBLEM, hidden_tests=TESTS)
    assert with_tests(hidden, shown=1, most=0).tests == TESTS[:1]
    assert with_tests(hidden, shown=1, most=0).hidden_tests == TESTS
    assert with_tests(dataclasses.replace(hidden, tests=TESTS[2:]), shown=1, most=0).tests == TESTS[2:]
