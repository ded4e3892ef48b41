"""The direct (vanilla) prompt: the program at once, in one fenced Python block.

The prompt that thinks in pseudocode first is in pseudocode.py.
"""

from __future__ import annotations

from o1jax.prompts import fence
from o1jax.prompts.chat import Message
from o1jax.prompts.task import Style, task_text
from o1jax.records import Problem

NANO_MARKER = "Write Python."
_INSTRUCTION = (
    "You are an expert Python programmer. Solve the problem below.\n\n{task}\n\n"
    "Answer with the complete program in one ```python block and nothing else."
)


def messages(problem: Problem, style: Style = "full") -> tuple[Message, ...]:
    """The conversation that asks for the program. Style nano: the question and a marker, no more."""
    if style == "nano":
        return ({"role": "user", "content": f"{problem.question}\n{NANO_MARKER}"},)
    return ({"role": "user", "content": _INSTRUCTION.format(task=task_text(problem))},)


def render_answer(source: str) -> str:
    """The answer that gives this program, without the end-of-message token."""
    return fence.render(source)


def program_of(text: str) -> str:
    """The program in an answer; raises FenceError unless there is exactly one Python block."""
    return fence.only_program(text)
