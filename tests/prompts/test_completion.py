"""The published plain-text prompts, and the program in what goes on from them."""

import pytest

from o1jax.prompts import direct
from o1jax.records import InputError, Problem

TASK = Problem("t", "Write f. Your code should pass these tests:\n\nassert f(1) == 2", "assertion")
SOLVED = Problem("s", "Write g.", "assertion", solutions=("def g():\n    return 1\n",))
STARTED = Problem("h", "Complete it.", "assertion", starter_code='def f(x):\n    """Add one."""\n')


def test_a_task_stands_after_its_examples_as_published():
    assert direct.completion_prompt(TASK, [SOLVED]) == (
        "You are an expert Python programmer, and here is your task: Write g.\n"
        "[BEGIN]\ndef g():\n    return 1\n[DONE]\n\n"
        "You are an expert Python programmer, and here is your task: "
        "Write f. Your code should pass these tests:\n\nassert f(1) == 2\n[BEGIN]\n"
    )


def test_starter_code_is_the_whole_prompt():
    assert direct.completion_prompt(STARTED, [SOLVED]) == STARTED.starter_code


def test_an_unsolved_example_is_refused():
    with pytest.raises(InputError, match="t has no reference program"):
        direct.completion_prompt(SOLVED, [TASK])


@pytest.mark.parametrize("after", ["", "\n[DONE]", "\n[DONE]\n\nYou are an expert", "\n\n[DONE]x[DONE]"])
def test_an_answer_between_the_marks_is_the_program(after):
    answer = "def f(x):\n    return x + 1" + after
    assert direct.completed_program(TASK, answer) == "def f(x):\n    return x + 1\n"


@pytest.mark.parametrize(
    "after", ["", "\n\n\nprint(f(1))", "\ndef g():\n    pass", "\n# Test\n", "\nclass A:"]
)
def test_a_body_ends_where_the_function_does(after):
    program = direct.completed_program(STARTED, "    if x:\n        return x + 1" + after)
    assert program == STARTED.starter_code + "    if x:\n        return x + 1\n"


def test_an_answer_that_says_nothing_is_no_program():
    assert (
        direct.completed_program(TASK, " \n[DONE]") == direct.completed_program(STARTED, "\ndef g(): 1") == ""
    )
