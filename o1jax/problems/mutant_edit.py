"""One change to a syntax tree: the record that the makers of edits and mutants.py share."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple


class Edit(NamedTuple):
    """`kind` names the sort of change; `changes` are new values of fields of `node`."""

    kind: str
    node: ast.AST
    changes: dict[str, Any]
