"""The changes that make a mutant of a program: another operator, constant, bound, condition, call or keyword,
a statement left out, two neighbours exchanged.

Says what can be changed, one node of the syntax tree at a time; mutants.py chooses. Follows names, not
values: a statement that computes from what was read is a statement like any other.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

# The names that read input. How it is read is left alone: a mutant that cannot read crashes on every input,
# so any case kills it, and to kill it says nothing of a case.
READING = frozenset({"input", "stdin", "open", "fileinput"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
DEFINITIONS = (*FUNCTIONS, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)
INNER = (ast.stmt, ast.ExceptHandler, ast.match_case)
LEAVING = (ast.Return, ast.Raise, ast.Break, ast.Continue)
SKIPPED = ("annotation", "returns", "format_spec", "decorator_list")  # whose change no test would see

# Each operator's neighbours: what a programmer writes by mistake (off by one, the other way round). The full
# cross product would mostly give mutants that die of any case.
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
ARITHMETIC: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add,), ast.Mult: (ast.Add,),
    ast.Div: (ast.FloorDiv, ast.Mult), ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,),
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "set": "list"}
METHODS = {"upper": "lower", "lower": "upper", "startswith": "endswith", "endswith": "startswith"}


class Edit(NamedTuple):
    """One change to a syntax tree."""

    kind: str  # the sort of change: mutants are drawn evenly over these
    node: ast.AST
    changes: dict[str, Any]  # new values of the node's fields


def edits_of(tree: ast.Module) -> list[Edit]:
    """Every change that may be made to a program, in a fixed order."""
    reading = _reading_names(tree)
    statements = [statement for owner, field in _blocks(tree) for statement in getattr(owner, field)]
    free = [statement for statement in statements if _is_free(statement, reading)]
    edits = [edit for statement in free for edit in _expression_edits(statement)]
    return edits + list(_statement_edits(tree, reading))


# What may be changed.


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """`node` and what is below it, without inner statements, annotations and format specifications."""
    yield node
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, INNER) and field not in SKIPPED:
                yield from _own_nodes(child)


def _mentioned(nodes: Iterator[ast.AST]) -> set[str]:
    """The names and attributes among some nodes."""
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in nodes
        if isinstance(node, ast.Name | ast.Attribute)
    }


def _reading_names(tree: ast.Module) -> set[str]:
    """The names that read input when they are called, those of the program's own functions among them."""
    names: set[str] = set(READING)
    size = 0
    # To a fixed point: a function may read through one that is defined further down.
    while len(names) > size:
        size = len(names)
        for node in ast.walk(tree):
            names |= _bound_to_reading(node, names)
    return names


def _bound_to_reading(node: ast.AST, names: set[str]) -> set[str]:
    """What a definition or an assignment makes another name for reading."""
    if isinstance(node, FUNCTIONS) and _mentioned(ast.walk(node)) & names:
        return {node.name}
    # `read = sys.stdin.readline` is another name for reading; `x = read()` is a value that was read.
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name | ast.Attribute | ast.Lambda):
        if _mentioned(ast.walk(node.value)) & names:
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


def _blocks(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """(node, field) of every list of statements in a tree, from the outside in."""
    for field, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else []
        if children and isinstance(children[0], ast.stmt):
            yield node, field
        for child in children:
            if isinstance(child, INNER):
                yield from _blocks(child)


def _is_free(statement: ast.stmt, reading: set[str]) -> bool:
    """Whether a mutant may change this statement (of a compound one the head): it defines nothing, does
    not read, and is neither a docstring nor `if __name__ == "__main__"`."""
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    if is_text or isinstance(statement, DEFINITIONS):
        return False
    return not _mentioned(_own_nodes(statement)) & (reading | {"__name__"})


# Changes inside a statement.


def _expression_edits(statement: ast.stmt) -> Iterator[Edit]:
    """Every change of this statement's own expressions: of a compound one, its head."""
    for node in _own_nodes(statement):
        for edits in (_operators, _conditions, _constants, _bounds, _calls):
            yield from edits(node)


def _operators(node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield Edit("comparison", node, {"ops": [*node.ops[:i], other(), *node.ops[i + 1 :]]})
    elif isinstance(node, ast.BinOp | ast.AugAssign) and not _is_on_text(node):
        for other in ARITHMETIC.get(type(node.op), ()):
            yield Edit("arithmetic", node, {"op": other()})


def _is_on_text(node: ast.BinOp | ast.AugAssign) -> bool:
    """Whether a text is in sight, on which another operator only crashes."""
    sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
    values = [side.value if isinstance(side, ast.Constant) else side for side in sides]
    return any(isinstance(value, ast.JoinedStr | str) for value in values)


def _conditions(node: ast.AST) -> Iterator[Edit]:
    """`and` for `or`, and the opposite; not of a single comparison, where that is another operator."""
    if isinstance(node, ast.BoolOp):
        yield Edit("condition", node, {"op": ast.Or() if isinstance(node.op, ast.And) else ast.And()})
    elif isinstance(node, ast.If | ast.While | ast.IfExp) and not _is_single(node.test):
        yield Edit("condition", node, {"test": _negated(node.test)})
    elif isinstance(node, ast.comprehension):
        for i, test in enumerate(node.ifs):
            if not _is_single(test):
                yield Edit("condition", node, {"ifs": [*node.ifs[:i], _negated(test), *node.ifs[i + 1 :]]})


def _is_single(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and len(test.ops) == 1


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


def _constants(node: ast.AST) -> Iterator[Edit]:
    """Numbers, texts, truth values and signs."""
    if isinstance(node, ast.Constant):
        for value in _other_values(node.value):
            yield Edit("constant", node, {"value": value})
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield Edit("constant", node, {"op": ast.UAdd()})


def _other_values(value: object) -> tuple[object, ...]:
    if isinstance(value, bool):  # before int, whose subclass it is
        return (not value,)
    if isinstance(value, int | float):
        # Never below 0: ast.unparse writes Constant(-1) bare, so that `-1 ** 2` would read back otherwise.
        return (value + 1, value - 1, 0) if value >= 1 else (value + 1,)
    if isinstance(value, str):
        return (value + "x", "") if value else ("x",)
    return ()


def _bounds(node: ast.AST) -> Iterator[Edit]:
    """One more or one less: in range (first and last), a slice, an index."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        for i in sorted({0, min(1, len(node.args) - 1)} if node.args else ()):
            for moved in _moved(node.args[i]):
                yield Edit("bound", node, {"args": [*node.args[:i], moved, *node.args[i + 1 :]]})
    elif isinstance(node, ast.Slice):
        for field, bound in (("lower", node.lower), ("upper", node.upper)):
            for moved in _moved(bound) if bound is not None else ():
                yield Edit("bound", node, {field: moved})
    elif isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice | ast.Tuple):
        for moved in _moved(node.slice):
            yield Edit("bound", node, {"slice": moved})


def _moved(bound: ast.expr) -> Iterator[ast.expr]:
    """`bound` and one, less one; nothing of a constant that is no number."""
    if isinstance(bound, ast.Constant):
        if type(bound.value) is int:
            yield ast.Constant(bound.value + 1)
            yield ast.Constant(bound.value - 1) if bound.value else ast.UnaryOp(ast.USub(), ast.Constant(1))
    elif not isinstance(bound, ast.JoinedStr):
        yield ast.BinOp(bound, ast.Add(), ast.Constant(1))
        yield ast.BinOp(bound, ast.Sub(), ast.Constant(1))


def _calls(node: ast.AST) -> Iterator[Edit]:
    """Another function, or a keyword left out."""
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        other = CALLS[node.func.id]
        keywords = [] if other == "list" else node.keywords  # which `list` does not take
        yield Edit("call", node, {"func": ast.Name(other, ast.Load()), "keywords": keywords})
    elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield Edit("call", node.func, {"attr": METHODS[node.func.attr]})
    for i, keyword in enumerate(node.keywords):
        yield Edit("keyword", node, {"keywords": [*node.keywords[:i], *node.keywords[i + 1 :]]})
        if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):
            yield Edit("keyword", keyword.value, {"value": not keyword.value.value})


# Changes of the order of statements.


def _statement_edits(tree: ast.Module, reading: set[str]) -> Iterator[Edit]:
    """Every statement that can be left out, and every two neighbours that can change places."""
    for owner, field in _blocks(tree):
        body = getattr(owner, field)
        for i, statement in enumerate(body):
            if _can_go(tree, owner, statement, reading):
                yield Edit("drop", owner, {field: body[:i] + body[i + 1 :] or [ast.Pass()]})
        for i, (first, second) in enumerate(itertools.pairwise(body)):
            if _can_change_places(tree, first, second, reading):
                yield Edit("swap", owner, {field: [*body[:i], second, first, *body[i + 2 :]]})


def _can_go(tree: ast.Module, owner: ast.AST, statement: ast.stmt, reading: set[str]) -> bool:
    """Whether the program without it still says something and knows every name."""
    if isinstance(statement, ast.Pass) or not _is_free(statement, reading):
        return False
    if _mentioned(ast.walk(statement)) & reading:
        return False
    # The last statement of a program or a function prints or returns: without it there is no answer at all.
    if isinstance(owner, (ast.Module, *FUNCTIONS)) and statement is owner.body[-1]:
        return False
    read_outside = {name.id for name in set(_names(tree, ast.Load)) - set(_names(statement, ast.Load))}
    return not _first_stores(tree, statement) & read_outside


def _can_change_places(tree: ast.Module, first: ast.stmt, second: ast.stmt, reading: set[str]) -> bool:
    """Whether the order of two simple statements matters, and the second can do without the first."""
    if any(isinstance(one, LEAVING) or any(_blocks(one)) for one in (first, second)):
        return False
    if not (_is_free(first, reading) and _is_free(second, reading)):
        return False
    names, others = _mentioned(_own_nodes(first)), _mentioned(_own_nodes(second))
    if _first_stores(tree, first) & others:
        return False
    return bool(_touched(first) & others or _touched(second) & names)


def _names(node: ast.AST, context: type[ast.expr_context] = ast.Store) -> list[ast.Name]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, context)]


def _first_stores(tree: ast.Module, statement: ast.stmt) -> set[str]:
    """The names that nothing before `statement` binds."""
    line = statement.lineno, statement.col_offset
    before = {n.id for n in _names(tree) if (n.lineno, n.col_offset) < line}
    before |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg) and (n.lineno, n.col_offset) < line}
    return {name.id for name in _names(statement)} - before


def _touched(statement: ast.stmt) -> set[str]:
    """The names that a statement binds or may change: also what it prints to."""
    touched = {name.id for name in _names(statement)}
    for node in _own_nodes(statement):
        if isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            touched |= _mentioned(ast.walk(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            touched |= _mentioned(ast.walk(node.func.value))  # a method may change its object
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            touched.add("print")
    return touched
