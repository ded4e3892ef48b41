"""Text as HTML, and data as JSON inside it: nothing that a run holds can end an element or start one."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from typing import Any

LONGEST = 20_000
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # the rest that could harm is not ASCII


def escape(text: Any) -> str:
    """As text of an element, or of an attribute in double quotes."""
    return html.escape(str(text))


def json_script(id: str, data: Any) -> str:
    """A <script type="application/json"> element."""
    return f'<script type="application/json" id="{escape(id)}">{json_text(data)}</script>'


def json_text(data: Any) -> str:
    """JSON in ASCII alone, without <, > and &; a number that JSON has not (NaN, infinities) becomes null."""
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(data), separators=(",", ":"))
    for character, escaped in UNSAFE.items():
        text = text.replace(character, escaped)
    return text


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """A table whose cells are text; all but the first column are numbers."""
    cells = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    lines = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class=scroll><table>{above}<thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """What opens on a click; `body` is HTML already."""
    return f"<details class=more><summary>{escape(summary)}</summary>{body}</details>"


def pre(value: Any) -> str:
    """JSON to read, its first LONGEST characters."""
    text = json.dumps(value, indent=1)
    return f"<pre>{escape(text if len(text) <= LONGEST else f'{text[:LONGEST]} …')}</pre>"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
