"""Steps and paths: what is rendered parses back exactly, and what is malformed is refused by name."""

import pytest

from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import direct, pseudocode
from o1jax.prompts.examples import EXAMPLES
from o1jax.prompts.pseudocode import StepError, parse_step, render_path, render_step
from o1jax.records import InputError, Problem, Step, TestCase

PROBLEM = Problem("p", "Add one.", "call", entry_point="f", starter_code="def f(x):\n    ")
CODE = Step(3, "print(1)\n")


def test_a_step_renders_as_designed():
    assert render_step(Step(1, "outline"), 1) == "<Step_Begin>### Step 1: <Action 1>\noutline<Step_End>"
    assert render_step(CODE, 2) == "<Step_Begin>### Step 2: <Action 3>\n```python\nprint(1)\n```<Step_End>"
    assert render_path([Step(1, "a"), CODE]).count("<Step_End>\n<Step_Begin>") == 1


def test_every_ladder_chain_and_example_round_trips():
    chains = [steps for _, steps in EXAMPLES]
    for problem in ladder.make_problems("pool", {1: 20, 3: 20}, seed=1):
        chains += problem.reasoning
    for chain in chains:
        assert render_path(chain).count("<Step_End>") == len(chain)
        for number, step in enumerate(chain, 1):
            assert parse_step(render_step(step, number), number) == step


def test_white_space_around_a_step_and_words_around_the_program_are_allowed():
    text = "\n<Step_Begin>### Step 2: <Action 3>\nThe program:\n```python\nprint(1)\n```\nDone.\n<Step_End>\n"
    assert parse_step(text, 2) == CODE


@pytest.mark.parametrize(
    "text, message",
    [
        ("### Step 1: <Action 1>\na<Step_End>", "wanted <Step_Begin> first"),
        ("a <Step_Begin>### Step 1: <Action 1>\na<Step_End>", "wanted <Step_Begin> first"),
        ("<Step_Begin>### Step 1: <Action 1>\na", "wanted <Step_End> last"),
        ("<Step_Begin>### Step 1: <Action 1>\na<Step_End> b", "wanted <Step_End> last"),
        ("", "wanted <Step_Begin> first"),
        ("<Step_Begin><Step_End>", "wanted '### Step 1: <Action 1, 2 or 3>'"),
        ("<Step_Begin>### Step 1: <Action 1>a<Step_End>", "wanted '### Step 1"),
        ("<Step_Begin>### Step one: <Action 1>\na<Step_End>", "wanted '### Step 1"),
        ("<Step_Begin>## Step 1: <Action 1>\na<Step_End>", "wanted '### Step 1"),
        ("<Step_Begin>### Step 2: <Action 1>\na<Step_End>", "saw number 2, wanted 1"),
        ("<Step_Begin>### Step 01: <Action 1>\na<Step_End>", "saw number 01, wanted 1"),
        ("<Step_Begin>### Step 1: <Action 4>\na<Step_End>", "saw action 4, wanted 1, 2 or 3"),
        ("<Step_Begin>### Step 1: <Action 0>\na<Step_End>", "saw action 0, wanted 1, 2 or 3"),
        ("<Step_Begin>### Step 1: <Action 1>\n<Step_End>", "empty body"),
        ("<Step_Begin>### Step 1: <Action 2>\n \n<Step_End>", "empty body"),
        ("<Step_Begin>### Step 1: <Action 1>\na<Step_Begin>b<Step_End>", "another step marker"),
        ("<Step_Begin>### Step 1: <Action 1>\na<Step_End>b<Step_End>", "another step marker"),
        ("<Step_Begin>### Step 1: <Action 3>\nprint(1)<Step_End>", "saw 0 closed ```python blocks"),
        (
            "<Step_Begin>### Step 1: <Action 3>\n```python\nprint(1)<Step_End>",
            "saw 0 closed ```python blocks",
        ),
        ("<Step_Begin>### Step 1: <Action 3>\n```\nprint(1)\n```<Step_End>", "saw 0 closed ```python blocks"),
        ("<Step_Begin>### Step 1: <Action 3>\n```python\n\n```<Step_End>", "empty ```python block"),
        (
            "<Step_Begin>### Step 1: <Action 3>\n```python\n1\n```\n```python\n2\n```<Step_End>",
            "saw 2 closed ```python blocks",
        ),
    ],
)
def test_a_malformed_step_is_refused_with_what_was_seen(text, message):
    with pytest.raises(StepError) as caught:
        parse_step(text, 1)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_fence_inside_a_string_of_the_program_survives_if_it_does_not_begin_a_line():
    step = Step(3, 'print("```python")\n')
    assert parse_step(render_step(step, 1), 1) == step


def test_the_nano_prompt_is_the_question_and_a_marker():
    assert pseudocode.messages(PROBLEM, style="nano") == (
        {"role": "user", "content": "Add one.\nThink in pseudocode."},
    )
    with pytest.raises(InputError, match="few_shot 1"):
        pseudocode.messages(PROBLEM, few_shot=1, style="nano")


def test_the_full_prompt_explains_the_actions_and_shows_as_many_examples_as_asked():
    for few_shot in range(len(EXAMPLES) + 1):
        turns = pseudocode.messages(PROBLEM, few_shot)
        assert [turn["role"] for turn in turns] == ["system", *["user", "assistant"] * few_shot, "user"]
        assert all(f"<Action {action}>" in turns[0]["content"] for action in (1, 2, 3))
        assert "`f`" in turns[-1]["content"] and "def f(x):" in turns[-1]["content"]
    with pytest.raises(InputError, match="few_shot 9"):
        pseudocode.messages(PROBLEM, few_shot=9)


def test_the_programs_of_the_examples_are_right():
    ferry, shelf = (steps[-1].text for _, steps in EXAMPLES)
    lines, printed = iter(["4 10", "5 5 6 4"]), []
    exec(ferry, {"input": lambda: next(lines), "print": printed.append})  # noqa: S102
    names = {}
    exec(shelf, names)  # noqa: S102
    assert printed == [2]
    assert names["shorten"]("aabccc") == "a2bc3" and names["shorten"]("") == ""


def test_no_prompt_shows_a_test_or_a_solution():
    secret = TestCase("INPUT-7301", "OUTPUT-7302")
    problem = Problem(
        "p",
        "Add one.",
        "stdin",
        tests=(secret,),
        hidden_tests=(secret,),
        solutions=("print(7303)",),
        reasoning=((Step(3, "print(7304)"),),),
    )
    for style in ("full", "nano"):
        few_shot = 2 if style == "full" else 0
        shown = pseudocode.messages(problem, few_shot, style), direct.messages(problem, style)
        assert "Add one." in str(shown) and "730" not in str(shown)
    text = direct.completion_prompt(problem)
    assert "Add one." in text and "730" not in text
