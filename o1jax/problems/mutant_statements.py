"""Changes of the order of things: a statement left out, two neighbours exchanged.

Leaves out what would only leave a name unbound, and what a program must end with.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from o1jax.problems.mutant_edit import Edit
from o1jax.problems.mutant_reading import FUNCTIONS, blocks, is_free, mentioned, own_nodes

COMPOUND = (
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.If,
    ast.With,
    ast.AsyncWith,
    ast.Try,
    ast.TryStar,
    ast.Match,
)
LEAVING = (ast.Return, ast.Raise, ast.Break, ast.Continue)


def statement_edits(tree: ast.Module, reading: set[str]) -> Iterator[Edit]:
    """Every statement that can be left out, and every two neighbours that can change places."""
    for owner, field in blocks(tree):
        body = getattr(owner, field)
        for i, statement in enumerate(body):
            if _can_go(tree, owner, statement, reading):
                yield Edit("drop", owner, {field: body[:i] + body[i + 1 :] or [ast.Pass()]})
        for i, (first, second) in enumerate(zip(body, body[1:], strict=False)):
            if _can_change_places(tree, first, second, reading):
                yield Edit("swap", owner, {field: [*body[:i], second, first, *body[i + 2 :]]})


def _can_go(tree: ast.Module, owner: ast.AST, statement: ast.stmt, reading: set[str]) -> bool:
    """Whether the program without it still says something and knows every name."""
    if isinstance(statement, ast.Pass) or not is_free(statement, reading):
        return False
    if mentioned(ast.walk(statement)) & reading:
        return False
    if isinstance(owner, (ast.Module, *FUNCTIONS)) and statement is owner.body[-1]:
        return False
    read_outside = {name.id for name in _loads(tree) - _loads(statement)}
    return not _first_stores(tree, statement) & read_outside


def _can_change_places(tree: ast.Module, first: ast.stmt, second: ast.stmt, reading: set[str]) -> bool:
    """Whether the order of two simple statements matters, and the second can do without the first."""
    if isinstance(first, COMPOUND + LEAVING) or isinstance(second, COMPOUND + LEAVING):
        return False
    if not (is_free(first, reading) and is_free(second, reading)):
        return False
    names, others = mentioned(own_nodes(first)), mentioned(own_nodes(second))
    if _first_stores(tree, first) & others:
        return False
    return bool(_touched(first) & others or _touched(second) & names)


def _loads(node: ast.AST) -> set[ast.Name]:
    return {n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _stores(node: ast.AST) -> list[ast.Name]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _first_stores(tree: ast.Module, statement: ast.stmt) -> set[str]:
    """The names that nothing before `statement` binds."""
    line = statement.lineno, statement.col_offset
    before = {n.id for n in _stores(tree) if (n.lineno, n.col_offset) < line}
    before |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg) and (n.lineno, n.col_offset) < line}
    return {name.id for name in _stores(statement)} - before


def _touched(statement: ast.stmt) -> set[str]:
    """The names that a statement binds or may change: also what it prints to."""
    touched = {name.id for name in _stores(statement)}
    for node in own_nodes(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            touched |= mentioned(ast.walk(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            touched |= mentioned(ast.walk(node.func.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            touched.add("print")
    return touched
