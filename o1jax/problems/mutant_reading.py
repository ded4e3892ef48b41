"""Which statements of a program read its input: what a mutant must leave as it is.

Follows names one step at a time: `input`, what is bound to it, and the functions that read. Follows no
values: a statement that computes from what was read is a statement like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

READING = frozenset({"input", "stdin", "open", "fileinput"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)
INNER = (ast.stmt, ast.ExceptHandler, ast.match_case)
SKIPPED = ("annotation", "returns", "format_spec", "decorator_list")


def own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and what is below it, without inner statements, annotations and format specifications."""
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, INNER) and field not in SKIPPED:
                yield from own_nodes(child)


def mentioned(nodes: Iterator[ast.AST]) -> set[str]:
    """The names and attributes among some nodes."""
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in nodes
        if isinstance(node, ast.Name | ast.Attribute)
    }


def reading_names(tree: ast.Module) -> set[str]:
    """The names that read input when they are called, those of the program's own functions among them."""
    names: set[str] = set(READING)
    size = 0
    while len(names) > size:
        size = len(names)
        for node in ast.walk(tree):
            names |= _bound_to_reading(node, names)
    return names


def _bound_to_reading(node: ast.AST, names: set[str]) -> set[str]:
    """What a definition or an assignment makes another name for reading."""
    if isinstance(node, FUNCTIONS) and mentioned(ast.walk(node)) & names:
        return {node.name}
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute | ast.Lambda):
        if mentioned(ast.walk(node.value)) & names:
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


def blocks(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(node, field) of every list of statements in a tree, from the outside in."""
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else []
        if children and isinstance(children[0], ast.stmt):
            yield node, field
        for child in children:
            if isinstance(child, INNER):
                yield from blocks(child)


def is_free(statement: ast.stmt, reading: set[str]) -> bool:
    """Whether a mutant may change this statement (of a compound one the head): it defines nothing, does
    not read, and is neither a docstring nor `if __name__ == "__main__"`."""
    if isinstance(statement, DEFINITIONS):
        return False
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return False
    return not mentioned(own_nodes(statement)) & (reading | {"__name__"})
