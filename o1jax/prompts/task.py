"""A problem as every full prompt states it: the question, the form of the answer, the starter code.

Shows no test: tests are given to the judge only.
"""

from __future__ import annotations

from typing import Literal

from o1jax.records import Problem

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
