"""Programs in fenced Markdown blocks: rendering one, and finding exactly one.

A program's canonical form ends in exactly one newline.
"""

from __future__ import annotations

import re

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
