"""Assert statements (MBPP, HumanEval) rewritten so that the comparison happens outside the child.

`assert f(args) == literal` becomes the expression `f(args)`, whose value comes back encoded, and the
expected literal, which never enters the child. What would show the child more (a comparison, a constant
beside the candidate's own calls, whose truth alone counts) or cannot be rewritten (a check function) is run
by a checker, in a process of its own where the candidate's names are stubs.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import symtable
from collections.abc import Iterator
from typing import Any

from o1jax.digits import many_digits
from o1jax.records import InputError
from o1jax.sandbox.jail import values

BUILTINS = frozenset(vars(builtins))
NOT_PYTHON = (SyntaxError, ValueError, MemoryError, RecursionError)


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """One test's text, taken apart."""

    steps: tuple[dict[str, str], ...]  # for the child: {"value": expression} or {"truth": expression}
    # One a step, and stays here: ("equal" or "identical", literal) or ("truth", bool). A block that ran to
    # its end counts as True.
    expected: tuple[tuple[str, Any], ...]
    block: str = ""  # for the checker, where there are no steps


@functools.lru_cache(maxsize=4096)
def rewrite(text: str, entry_point: str = "") -> Rewritten:
    """One test's text, rewritten; the candidate's own calls are those of `entry_point`. Raises InputError
    where it is not Python, or expects what no program can return."""
    try:
        with many_digits():
            body = ast.parse(text).body
            found = [_rewritten(statement, entry_point) for statement in body]
    except values.BadValue as error:
        raise InputError(f"a test expects a {error}: {text[:80]!r}; fix the problem file") from error
    except NOT_PYTHON as error:
        raise InputError(f"a test is not Python ({error}): {text[:80]!r}; fix the problem file") from error
    if not body:
        raise InputError(f"an assertion test holds no statement: {text[:80]!r}; fix the problem file")
    if all(found):
        return Rewritten(tuple(step for step, _ in found), tuple(want for _, want in found))
    return Rewritten((), (("truth", True),), text)


@functools.lru_cache(maxsize=4096)
def free_names(text: str, entry_point: str = "") -> tuple[str, ...]:
    """The global names that Python `text` uses and neither binds itself nor finds among the built-ins, of
    which `entry_point` is none. Raises InputError where the text is not Python."""
    try:
        top = symtable.symtable(text, "<test>", "exec")
    except NOT_PYTHON as error:
        raise InputError(f"a setup is not Python ({error}): {text[:80]!r}; fix the problem file") from error
    used = {
        symbol.get_name()
        for table in _tables(top)
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module")
    }
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return tuple(sorted(used - bound - (BUILTINS - {entry_point})))


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _rewritten(statement: ast.stmt, entry_point: str) -> tuple[dict[str, str], tuple[str, Any]] | None:
    if not isinstance(statement, ast.Assert):
        return None
    test = statement.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        kind = "equal" if isinstance(test.ops[0], ast.Eq) else "identical"
        literal = _literal(test.comparators[0])
        if literal is None or not _tells_nothing(test.left, literal[0], entry_point):
            return None
        values.encode(literal[0])  # what no child could return, no test may expect
        return {"value": ast.unparse(test.left)}, (kind, literal[0])
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    asked = test.operand if negated else test
    return ({"truth": ast.unparse(asked)}, ("truth", not negated)) if _is_own(asked, entry_point) else None


def _tells_nothing(asked: ast.expr, literal: Any, entry_point: str) -> bool:
    """Whether a candidate that sees `asked` must still find `literal` itself: it could guess a bool, as of
    `isclose(f(2), g(2)) == True`, and make any function but its own return it."""
    return _is_own(asked, entry_point) or type(literal) is not bool and _shows_nothing(asked, entry_point)


def _shows_nothing(node: ast.AST, entry_point: str, *, in_index: bool = False) -> bool:
    """Whether a node, but for the arguments of own calls, has no comparison and no constant but indices."""
    if _is_own(node, entry_point):
        return True
    if isinstance(node, ast.Compare | ast.BoolOp) or isinstance(node, ast.Constant) and not in_index:
        return False
    within = node.slice if isinstance(node, ast.Subscript) else None
    return all(
        _shows_nothing(child, entry_point, in_index=in_index or child is within)
        for child in ast.iter_child_nodes(node)
    )


def _is_own(node: ast.AST, entry_point: str) -> bool:
    """Whether a node calls the entry point, as a function or as a method; where there is none, any function
    but the built-in ones."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr == entry_point
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    return name == entry_point if entry_point else name not in {"", *BUILTINS}


def _literal(node: ast.expr) -> tuple[Any] | None:
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, SyntaxError):
        return None
