"""The prompts that ask for the program at once: the direct one, and HumanEval's and MBPP's plain texts.

The prompt that thinks in pseudocode first is in pseudocode.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from o1jax.prompts import fence
from o1jax.prompts.chat import Message
from o1jax.prompts.fence import Style, task_text
from o1jax.records import InputError, Problem

NANO_MARKER = "Write Python."
_INSTRUCTION = (
    "You are an expert Python programmer. Solve the problem below.\n\n{task}\n\n"
    "Answer with the complete program in one ```python block and nothing else."
)

# The completion prompts are for models that go on from a text. Starter code is the prompt where there is some
# (Chen et al., arXiv 2107.03374). Else the task stands after worked examples, answers between [BEGIN] and
# [DONE] (Austin et al., arXiv 2108.07732: three of them).
BEGIN, DONE = "[BEGIN]", "[DONE]"
AFTER_A_FUNCTION = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # what Codex was stopped at
_TASK = "You are an expert Python programmer, and here is your task: {question}\n" + BEGIN + "\n"


def messages(problem: Problem, style: Style = "full") -> tuple[Message, ...]:
    """The conversation that asks for the program. Styles nano: the question and a marker, no more."""
    if style != "full":
        return ({"role": "user", "content": f"{problem.question}\n{NANO_MARKER}"},)
    return ({"role": "user", "content": _INSTRUCTION.format(task=task_text(problem))},)


def render_answer(source: str) -> str:
    """The answer that gives this program, without the end-of-message token."""
    return fence.render(source)


def completion_prompt(problem: Problem, examples: Sequence[Problem] = ()) -> str:
    """The prompt of a problem, after solved `examples` if it has no starter code; InputError for one that has
    no reference program."""
    if problem.starter_code.strip():
        return problem.starter_code
    return "\n\n".join([*map(_solved, examples), _TASK.format(question=problem.question)])


def _solved(example: Problem) -> str:
    if not example.solutions:
        raise InputError(f"{example.id} has no reference program, so it cannot be an example; leave it out")
    return f"{_TASK.format(question=example.question)}{example.solutions[0].rstrip()}\n{DONE}"


def completion_stops(problem: Problem) -> tuple[str, ...]:
    """What an answer ends at."""
    return AFTER_A_FUNCTION if problem.starter_code.strip() else (DONE,)


def completed_program(problem: Problem, answer: str) -> str:
    """The program that an answer makes, "" if it says nothing."""
    # An engine keeps the token that completes a stop, with the text after it: cut here, by the same words.
    kept = re.split("|".join(map(re.escape, completion_stops(problem))), answer, maxsplit=1)[0]
    if not kept.strip():
        return ""
    return (problem.starter_code if problem.starter_code.strip() else "") + kept.rstrip() + "\n"
