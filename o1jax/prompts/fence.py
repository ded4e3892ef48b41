"""Programs in fenced Markdown blocks: rendering one, and finding exactly one.

A program's canonical form ends in exactly one newline.
"""

from __future__ import annotations

import re
from typing import Literal

from o1jax.records import Problem

_BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)
_PYTHON = ("python", "python3", "py")


class FenceError(ValueError):
    """An answer does not hold exactly one fenced Python block; the message says what it holds."""


def render(source: str) -> str:
    """The program in a fenced Python block, without a newline after it."""
    return f"```python\n{_canonical(source)}```"


def only_program(text: str) -> str:
    """The program in the only fenced Python block of a text; FenceError if there is not exactly one."""
    blocks = [body for language, body in _BLOCK.findall(text) if language.strip().lower() in _PYTHON]
    if len(blocks) != 1:
        raise FenceError(f"saw {len(blocks)} closed ```python blocks, wanted exactly 1")
    if not blocks[0].strip():
        raise FenceError("saw an empty ```python block, wanted a program")
    return _canonical(blocks[0])


def _canonical(source: str) -> str:
    return source.strip("\n") + "\n"


# A problem as every full prompt states it: the question, the form of the answer, the starter code.
#
# Shows no test: tests are given to the judge only.

Style = Literal["nano", "full"]  # nano: the question and a marker; full: instructions and examples


def task_text(problem: Problem) -> str:
    """The problem's statement for a model that reads English."""
    parts = [problem.question.strip()]
    if problem.form == "stdin":
        parts.append("The program reads standard input and prints to standard output.")
    elif problem.entry_point:
        parts.append(f"Write a function named `{problem.entry_point}` and return the result from it.")
    if problem.starter_code.strip():
        parts.append(f"Start from this code:\n```python\n{problem.starter_code.rstrip()}\n```")
    return "\n\n".join(parts)
