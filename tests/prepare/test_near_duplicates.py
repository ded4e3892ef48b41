"""Training problems that are nearly evaluation problems are found, whatever their tests say."""

import dataclasses
import pathlib
import re

import pytest

from o1jax.prepare import choose as near
from o1jax.problems.formats.mbpp import TESTS_FOLLOW
from o1jax.problems.load import load_problems
from o1jax.records import Problem

MBPP = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mbpp" / "mbpp.jsonl"
SETTINGS = near.Nearness()


def problem(name, question, **fields):
    return Problem(name, question, "assertion", **fields)


SUM = problem("sum", "Write a function to find the sum of the digits of a given number in base ten.")
SORT = problem("sort", "Sort the list of words by their length, the longest one first, and join them.")


def test_a_word_changed_is_near_and_another_task_is_not():
    close = dataclasses.replace(SUM, id="close", question=SUM.question.replace("ten", "two"))
    (found,) = near.near_duplicates([SORT, close], [SUM], SETTINGS)
    assert (found.id, found.other_id) == ("close", "sum") and 0.6 <= found.similarity < 1


def test_case_punctuation_and_shown_tests_do_not_matter():
    a = dataclasses.replace(SUM, question=SUM.question.upper() + TESTS_FOLLOW + "assert f(1) == 1")
    b = dataclasses.replace(SUM, question=SUM.question.strip(".") + TESTS_FOLLOW + "assert g('x', [2])")
    assert near.near_duplicates([a], [b], SETTINGS)[0].similarity == 1.0


def test_starter_code_is_part_of_the_statement():
    ask = "Complete the function below so that it does what its docstring says."
    a = problem("a", ask, starter_code='def f(x):\n    """The largest prime factor of x."""')
    b = problem(
        "b",
        ask,
        starter_code='def g(text):\n    """Whether the brackets of text are balanced, all of them."""',
    )
    assert not near.near_duplicates([a], [b], dataclasses.replace(SETTINGS, threshold=0.8))
    assert near.near_duplicates([a], [dataclasses.replace(a, id="c")], SETTINGS)


def test_statements_shorter_than_a_run_of_words_are_compared_whole():
    assert near.near_duplicates([problem("a", "Add.")], [problem("b", "add")], SETTINGS)
    assert not near.near_duplicates([problem("a", "Add.")], [problem("b", "Sort")], SETTINGS)


def runs_of_three(p):
    words = re.findall(r"\w+", near.statement(p).lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def similarity(a, b):
    return len(a & b) / len(a | b)


@pytest.mark.skipif(not MBPP.exists(), reason=f"no MBPP at {MBPP}")
def test_nearly_all_near_duplicates_of_mbpps_own_splits_are_found():
    train, test = (load_problems(f"mbpp:{MBPP}:{split}").problems for split in ("train", "test"))
    runs = {p.id: runs_of_three(p) for p in [*train, *test]}
    exact = {p.id for p in train if any(similarity(runs[p.id], runs[q.id]) >= 0.6 for q in test)}
    found = {duplicate.id for duplicate in near.near_duplicates(train, test, SETTINGS)}
    assert len(exact) == 42 and found <= exact and len(found) >= 41
