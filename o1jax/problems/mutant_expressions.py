"""Changes inside a statement: another operator, constant, bound, condition, call or keyword.

Says what can be changed, one node at a time; mutants.py chooses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from o1jax.problems.mutant_edit import Edit
from o1jax.problems.mutant_reading import own_nodes

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
ARITHMETIC: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add,),
    ast.Div: (ast.FloorDiv, ast.Mult),
    ast.FloorDiv: (ast.Mod, ast.Mult),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "set": "list"}
METHODS = {"upper": "lower", "lower": "upper", "startswith": "endswith", "endswith": "startswith"}


def expression_edits(statement: ast.stmt) -> Iterator[Edit]:
    """Every change of this statement's own expressions: of a compound one, its head."""
    for node in own_nodes(statement):
        yield from _operators(node)
        yield from _conditions(node)
        yield from _constants(node)
        yield from _bounds(node)
        yield from _calls(node)


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
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in sides
    )


def _conditions(node: ast.AST) -> Iterator[Edit]:
    """And for or, the opposite: of a single comparison not, for there it is another operator."""
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
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int | float):
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
    """Another function, or a keyword left out; `sorted` becomes `list`, which takes no keywords."""
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        other = CALLS[node.func.id]
        keywords = [] if other == "list" else node.keywords
        yield Edit("call", node, {"func": ast.Name(other, ast.Load()), "keywords": keywords})
    elif isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
        yield Edit("call", node.func, {"attr": METHODS[node.func.attr]})
    for i, keyword in enumerate(node.keywords):
        yield Edit("keyword", node, {"keywords": [*node.keywords[:i], *node.keywords[i + 1 :]]})
        if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, bool):
            yield Edit("keyword", keyword.value, {"value": not keyword.value.value})
