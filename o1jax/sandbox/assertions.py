"""Assert statements (MBPP, HumanEval) rewritten so that the comparison happens outside the child.

`assert f(args) == literal` becomes the expression `f(args)`, whose value comes back encoded, and the
expected literal, which never enters the child. What would show the child more (a comparison, a constant
beside the candidate's own calls, whose truth alone counts) or cannot be rewritten (a check function) is run
by a checker, in a process of its own where the candidate's names are stubs.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from typing import Any, NamedTuple

from o1jax.digits import many_digits
from o1jax.records import InputError
from o1jax.sandbox import setups
from o1jax.sandbox.jail import values

ENDINGS = frozenset({"StopIteration", "StopAsyncIteration"})


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """One test's text, taken apart."""

    steps: tuple[dict[str, str], ...]  # for the child: {"value": expression} or {"truth": expression}
    # One a step, and stays here: ("equal" or "identical", literal) or ("truth", bool). A block that ran to
    # its end counts as True.
    expected: tuple[tuple[str, Any], ...]
    block: str = ""  # for the checker, where there are no steps


@functools.lru_cache(maxsize=4096)
def rewrite(text: str, entry_point: str = "", setup: str = "") -> Rewritten:
    """One test's text, rewritten; the candidate's own calls are those of `entry_point`, and none is of what
    the `setup` binds. Raises InputError where either is not Python, or the test expects what no program can
    return."""
    mine = _Names(entry_point, setups.bound_names(setup), setups.telling_names(setup, entry_point))
    try:
        with many_digits():
            body = ast.parse(text).body
            found = [_rewritten(statement, mine) for statement in body]
            block = "" if all(found) else _block(text, body)
    except values.BadValue as error:
        raise InputError(f"a test expects a {error}: {text[:80]!r}; fix the problem file") from error
    except setups.NOT_PYTHON as error:
        raise InputError(f"a test is not Python ({error}): {text[:80]!r}; fix the problem file") from error
    if not body:
        raise InputError(f"an assertion test holds no statement: {text[:80]!r}; fix the problem file")
    if not block:
        return Rewritten(tuple(step for step, _ in found), tuple(want for _, want in found))
    return Rewritten((), (("truth", True),), block)


class _Names(NamedTuple):
    """What the names in a test mean."""

    entry_point: str
    of_setup: frozenset[str]
    telling: frozenset[str]  # setups.telling_names


def _block(text: str, body: list[ast.stmt]) -> str:
    """A test's text for a checker, where an iterator's end that the program raises is another exception."""
    handlers = [node for item in body for node in ast.walk(item) if isinstance(node, ast.ExceptHandler)]
    for handler in handlers:
        caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if any(isinstance(kind, ast.Name) and kind.id in ENDINGS for kind in caught):
            handler.type = ast.Tuple([*caught, ast.Name("EndedIteration", ast.Load())], ast.Load())
            text = ""
    return text or ast.unparse(ast.Module(body, []))


def _rewritten(statement: ast.stmt, mine: _Names) -> tuple[dict[str, str], tuple[str, Any]] | None:
    if not isinstance(statement, ast.Assert):
        return None
    test = statement.test
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        kind = "equal" if isinstance(test.ops[0], ast.Eq) else "identical"
        literal = _literal(test.comparators[0])
        if literal is None or not _tells_nothing(test.left, literal[0], mine):
            return None
        values.encode(literal[0])  # what no child could return, no test may expect
        return {"value": ast.unparse(test.left)}, (kind, literal[0])
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    asked = test.operand if negated else test
    return ({"truth": ast.unparse(asked)}, ("truth", not negated)) if _is_own(asked, mine) else None


def _tells_nothing(asked: ast.expr, literal: Any, mine: _Names) -> bool:
    """Whether a candidate that sees `asked` must still find `literal` itself: it could guess a bool, as of
    `isclose(f(2), g(2)) == True`, and make any function but its own return it."""
    return _is_own(asked, mine) or type(literal) is not bool and _shows_nothing(asked, mine)


def _shows_nothing(node: ast.AST, mine: _Names, *, in_index: bool = False) -> bool:
    """Whether a node, but for the arguments of own calls, has no comparison, no constant but indices, and no
    name that tells."""
    if _is_own(node, mine):
        return True
    if isinstance(node, ast.Name) and node.id in mine.telling:
        return False
    if isinstance(node, ast.Compare | ast.BoolOp) or isinstance(node, ast.Constant) and not in_index:
        return False
    within = node.slice if isinstance(node, ast.Subscript) else None
    return all(
        _shows_nothing(child, mine, in_index=in_index or child is within)
        for child in ast.iter_child_nodes(node)
    )


def _is_own(node: ast.AST, mine: _Names) -> bool:
    """Whether a node calls the entry point, as a function or as a method; where there is none, any function
    but the built-in ones and the setup's."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr == mine.entry_point
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if mine.entry_point:
        return name == mine.entry_point
    return name not in {"", *setups.BUILTINS, *mine.of_setup}


def _literal(node: ast.expr) -> tuple[Any] | None:
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, SyntaxError):
        return None
