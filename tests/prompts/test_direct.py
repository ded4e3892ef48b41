"""The direct prompt and the program in its answer."""

import pytest

from o1jax.prompts import direct, fence, pseudocode
from o1jax.records import Problem

PROBLEM = Problem("p", "Add one.", "stdin")


@pytest.mark.parametrize("source", ["print(1)\n", "def f():\n    return 1\n\n\nf()\n", 'x = "`"\n'])
def test_an_answer_round_trips(source):
    assert fence.only_program(direct.render_answer(source)) == source
    assert fence.only_program(f"Here it is:\n\n{direct.render_answer(source)}\n\nIt prints 1.") == source


@pytest.mark.parametrize(
    "text, seen",
    [
        ("print(1)", "saw 0 closed"),
        ("```python\nprint(1)", "saw 0 closed"),
        ("```\nprint(1)\n```", "saw 0 closed"),
        ("```python\n1\n```\n```python\n2\n```", "saw 2 closed"),
        ("```python\n \n```", "empty"),
    ],
)
def test_an_answer_without_exactly_one_program_is_refused(text, seen):
    with pytest.raises(fence.FenceError, match=seen):
        fence.only_program(text)


def test_nano_prompts_differ_in_the_marker_only():
    ours, other = (m.messages(PROBLEM, style="nano")[0]["content"] for m in (direct, pseudocode))
    assert ours.split("\n")[:-1] == other.split("\n")[:-1] == ["Add one."]
    assert ours != other


def test_the_full_prompt_says_how_the_program_is_run():
    assert "standard input" in direct.messages(PROBLEM)[0]["content"]


def test_the_full_prompt_names_the_function_and_shows_where_to_start():
    started = Problem("p", "Complete it.", "assertion", entry_point="add", starter_code="def add(x):\n")
    for module in (direct, pseudocode):
        text = module.messages(started)[-1]["content"]
        assert "a function named `add`" in text and "```python\ndef add(x):\n```" in text
