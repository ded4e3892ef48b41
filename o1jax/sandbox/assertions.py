"""Assert statements (MBPP, HumanEval) rewritten so that the comparison happens outside the child.

`assert f(args) == literal` becomes the expression `f(args)`, whose value comes back encoded, and the
expected literal, which never enters the child. What cannot be rewritten (a check function, another
comparison) is run by a checker, in a process of its own where the candidate's names are stubs.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import symtable
from collections.abc import Iterator
from typing import Any

from o1jax.records import InputError
from o1jax.sandbox import literals


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """`steps` go to the child: {"value": expression} or {"truth": expression}; none where the test is
    a `block` for the checker. `expected` is aligned with them and stays here: ("equal" or "identical",
    literal) or ("truth", bool), where a block that ran to its end counts as True."""

    steps: tuple[dict[str, str], ...]
    expected: tuple[tuple[str, Any], ...]
    block: str = ""


@functools.lru_cache(maxsize=4096)
def rewrite(text: str) -> Rewritten:
    """One test's text, rewritten. Raises InputError where it is not Python."""
    try:
        with literals.any_digits():
            body = ast.parse(text).body
            found = [_rewritten(statement) for statement in body]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"a test is not Python ({error}): {text[:80]!r}; fix the problem file") from error
    if not body:
        raise InputError(f"an assertion test holds no statement: {text[:80]!r}; fix the problem file")
    if all(found):
        return Rewritten(tuple(step for step, _ in found), tuple(want for _, want in found))
    return Rewritten((), (("truth", True),), text)


@functools.lru_cache(maxsize=4096)
def free_names(text: str) -> tuple[str, ...]:
    """The global names that Python `text` uses and neither binds itself nor finds among the built-ins."""
    top = symtable.symtable(text, "<test>", "exec")
    used = {name for table in _tables(top) for name in _globals_used(table)}
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return tuple(sorted(used - bound - set(vars(builtins))))


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _globals_used(table: symtable.SymbolTable) -> Iterator[str]:
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
            yield symbol.get_name()


def _rewritten(statement: ast.stmt) -> tuple[dict[str, str], tuple[str, Any]] | None:
    if not isinstance(statement, ast.Assert):
        return None
    test = statement.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        literal = _literal(test.comparators[0])
        kind = "equal" if isinstance(test.ops[0], ast.Eq) else "identical"
        return literal and ({"value": ast.unparse(test.left)}, (kind, literal[0]))
    if isinstance(test, ast.Call):
        return {"truth": ast.unparse(test)}, ("truth", True)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Call):
        return {"truth": ast.unparse(test.operand)}, ("truth", False)
    return None


def _literal(node: ast.expr) -> tuple[Any] | None:
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, SyntaxError):
        return None
