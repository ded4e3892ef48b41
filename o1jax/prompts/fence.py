"""What the full prompts share: how a problem is stated, and a program in a fenced Markdown block.

A program's canonical form ends in exactly one newline. Shows no test: tests are given to the judge only.
"""

from __future__ import annotations

import re
from typing import Literal

from o1jax.records import Problem

# nano: the question and a marker; nano_hidden: the same, but the program is written without the question
# (pseudocode.program_messages); full: instructions and examples.
Style = Literal["nano", "nano_hidden", "full"]
# A fence counts only where it begins a line, so that one inside a string of the program does not end it.
_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
PYTHON = ("python", "python3", "py")


class FenceError(ValueError):
    """An answer does not hold exactly one fenced Python block; the message says what it holds."""


def task_text(problem: Problem) -> str:
    """The problem's statement for a model that reads English: question, form of the answer, starter code."""
    parts = [problem.question.strip()]
    if problem.form == "stdin":
        parts.append("The program reads standard input and prints to standard output.")
    elif problem.entry_point:
        parts.append(f"Write a function named `{problem.entry_point}` and return the result from it.")
    if problem.starter_code.strip():
        parts.append(f"Start from this code:\n```python\n{problem.starter_code.rstrip()}\n```")
    return "\n\n".join(parts)


def render(source: str) -> str:
    """The program in a fenced Python block, without a newline after it."""
    return f"```python\n{canonical(source)}```"


def only_program(text: str) -> str:
    """The program in the only fenced Python block of a text; FenceError if there is not exactly one."""
    blocks = [body for language, body in _BLOCK.findall(text) if language.strip().lower() in PYTHON]
    # With two blocks, picking one would be a guess, and the policy would never learn to write one.
    if len(blocks) != 1:
        raise FenceError(f"saw {len(blocks)} closed ```python blocks, wanted exactly 1")
    if not blocks[0].strip():
        raise FenceError("saw an empty ```python block, wanted a program")
    return canonical(blocks[0])


def canonical(source: str) -> str:
    """The program without empty lines around it."""
    return source.strip("\n") + "\n"
