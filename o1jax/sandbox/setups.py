"""What of a problem's setup goes to the program, and what stays with the checker of its tests.

A setup is code that tests need beside the program. Some of it programs need too (imports, a class Node), some
is made of the program (`root = Node(1)`), and some is what the tests expect (`WANT = 18`, a function that
checks): the last must not be where a program can read it, or patch what it uses. It is taken apart by
statement. Runs nothing of it, and knows nothing of processes (jail/calls.py and jail/checker.py run it).
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import importlib
import itertools
import symtable
import sys
from collections.abc import Iterable, Iterator, Sequence

from o1jax.digits import many_digits
from o1jax.records import InputError

BUILTINS = frozenset(vars(builtins))
NOT_PYTHON = (SyntaxError, ValueError, MemoryError, RecursionError)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
DYNAMIC = frozenset(
    {"eval", "exec", "globals", "locals", "vars", "setattr"}
)  # they find and bind names by text
COMPREHENSIONS = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})


@dataclasses.dataclass(frozen=True)
class Setup:
    """A setup, divided."""

    # For the program: texts in order, and whether each sets values that tests name, which are the tests'
    # whatever the program calls by the same names.
    shown: tuple[tuple[str, bool], ...] = ()
    kept: str = ""  # for the checker


@dataclasses.dataclass(frozen=True)
class Part:
    """One statement of a setup."""

    node: ast.stmt
    binds: frozenset[str]  # names that it binds, or whose objects it changes
    uses: frozenset[str]  # global names that it uses, sooner or later
    now: frozenset[str]  # those that it uses when it runs, not when its functions are called
    needs_program: bool = False  # whether it can only run where the program's names are

    @property
    def is_import(self) -> bool:
        return all(isinstance(node, ast.Import | ast.ImportFrom) for node in _within(self.node))

    @property
    def is_definition(self) -> bool:
        kinds = (*DEFINITIONS, ast.Import, ast.ImportFrom)
        return all(isinstance(node, kinds) for node in _within(self.node))


@functools.lru_cache(maxsize=1024)
@many_digits()
def divided(setup: str, entry_point: str, questions: tuple[str, ...], blocks: tuple[str, ...]) -> Setup:
    """The setup of tests that ask `questions` of the program, and of those whose texts a checker runs.

    The program gets imports, what is made of its own names, what its questions name, and what no test names
    (which it may count on); of the rest a checker's tests are the only users. Raises InputError where the
    setup is not Python.
    """
    if not setup:
        return Setup()
    parts = parts_of(setup, entry_point)
    bound = _union(part.binds for part in parts)
    asked = _reached(
        parts, [*map(_names_in, questions), *(part.uses for part in parts if part.needs_program)]
    )
    checked = _reached(parts, map(_names_in, blocks)) - asked
    shown, hidden = [], set()
    for part in parts:
        is_starter = entry_point in bound and part.is_definition  # what the answer begins with
        if part.is_import or part.needs_program or part.binds & asked:
            shown.append(part)
        elif part.now & hidden or part.uses & DYNAMIC or _asserts(part.node):
            hidden |= part.binds
        elif part.binds & checked and not (is_starter or is_record(part.node)):
            hidden |= part.binds
        else:
            shown.append(part)
    kept = [part for part in parts if not part.needs_program]
    return Setup(_joined(shown), "\n".join(ast.unparse(part.node) for part in kept))


@functools.lru_cache(maxsize=1024)
@many_digits()
def whole(setup: str, *, overwrites: bool) -> Setup:
    """A setup that goes to the program as it is. Raises InputError where it is not Python."""
    _parsed(setup)
    return Setup(((setup, overwrites),) if setup else ())


@functools.lru_cache(maxsize=1024)
@many_digits()
def parts_of(setup: str, entry_point: str) -> tuple[Part, ...]:
    """The statements in order. Those that use names which nobody but the program can bind, other than the
    entry point, need the program, and so do those that use what these bind."""
    parts = [Part(node, *_names_of(ast.unparse(node))) for node in _parsed(setup).body]
    imported = _union(part.binds for part in parts if part.is_import)
    known = BUILTINS | {entry_point} | _union(part.binds for part in parts)
    known |= _union(star_names(node) for part in parts for node in _within(part.node))
    found, made = [], set()
    for part in parts:
        binds = part.binds | (_changed(part.node) & part.now) - imported
        needs_program = bool(part.now - known or part.now & made)
        needs_program &= not part.is_import and not isinstance(part.node, ast.Assert)
        made |= binds if needs_program else set()
        found.append(dataclasses.replace(part, binds=binds, needs_program=needs_program))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def telling_names(setup: str, entry_point: str) -> frozenset[str]:
    """Names of a setup that a question may only use in the arguments of the program's own calls, for what
    they stand for would show what is expected: values, and functions with a comparison or a constant in them.
    Not those that take objects apart (`node.next`), which only the program's process can."""
    parts = parts_of(setup, entry_point)
    imported = _union(part.binds for part in parts if part.is_import)
    telling = set()
    for name in _union(part.binds for part in parts if not part.needs_program):
        reached = [part for part in parts if part.binds & _reached(parts, [{name}]) and not part.is_import]
        takes_apart = any(_takes_apart(part.node, imported) for part in reached)
        if not takes_apart and any(not part.is_definition or _tells(part.node) for part in reached):
            telling.add(name)
    return frozenset(telling)


@functools.lru_cache(maxsize=1024)
def bound_names(setup: str) -> frozenset[str]:
    """The names that a setup binds."""
    parts = parts_of(setup, "")
    return _union(part.binds for part in parts) | _union(star_names(part.node) for part in parts)


def free_names(text: str, entry_point: str = "") -> tuple[str, ...]:
    """The global names that Python `text` uses and neither binds itself nor finds among the built-ins, of
    which `entry_point` is none. Raises InputError where the text is not Python."""
    binds, uses, _ = _names_of(text)
    return tuple(sorted(uses - binds - (BUILTINS - {entry_point})))


def star_names(node: ast.stmt) -> frozenset[str]:
    """What `from module import *` binds, of a module of the standard library."""
    if not isinstance(node, ast.ImportFrom) or node.names[0].name != "*":
        return frozenset()
    module = node.module or ""
    if module.partition(".")[0] not in sys.stdlib_module_names:
        return frozenset()
    return frozenset(name for name in vars(importlib.import_module(module)) if not name.startswith("_"))


def is_record(node: ast.stmt) -> bool:
    """Whether a class only holds fields (a list's node): special methods, with no value but the plainest."""
    if not isinstance(node, ast.ClassDef):
        return False
    methods = all(isinstance(item, ast.FunctionDef) and item.name.startswith("__") for item in node.body)
    constants = (item.value for item in ast.walk(node) if isinstance(item, ast.Constant))
    return methods and all(value in (None, 0, "") for value in constants)


def _asserts(node: ast.stmt) -> bool:
    return any(isinstance(item, ast.Assert) for item in ast.walk(node))


def _tells(node: ast.stmt) -> bool:
    return any(isinstance(item, ast.Constant | ast.Compare) for item in ast.walk(node))


def _takes_apart(node: ast.stmt, imported: frozenset[str]) -> bool:
    """Whether it has an attribute that is neither called nor a module's."""
    called = {id(item.func) for item in ast.walk(node) if isinstance(item, ast.Call)}
    attributes = [
        item for item in ast.walk(node) if isinstance(item, ast.Attribute) and id(item) not in called
    ]
    return any(not (isinstance(a.value, ast.Name) and a.value.id in imported) for a in attributes)


def _joined(parts: Sequence[Part]) -> tuple[tuple[str, bool], ...]:
    """Texts, each of neighbours that overwrite the program's names or do not."""
    future = [
        part for part in parts if isinstance(part.node, ast.ImportFrom) and part.node.module == "__future__"
    ]
    found = []
    for overwrites, group in itertools.groupby(parts, lambda part: not part.is_definition):
        nodes = [part.node for part in (*future, *(part for part in group if part not in future))]
        found.append(("\n".join(map(ast.unparse, nodes)), overwrites))
    return tuple(found)


def _reached(parts: Sequence[Part], names: Iterable[Iterable[str]]) -> frozenset[str]:
    """The names, and all that the statements which bind them use."""
    found, wanted = set(), _union(names)
    while wanted - found:
        found |= wanted
        wanted = _union(part.uses for part in parts if part.binds & found)
    return frozenset(found)


def _union(sets: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset(itertools.chain.from_iterable(sets))


def _names_in(text: str) -> set[str]:
    nodes = [*ast.walk(ast.parse(text))]
    found = {node.id for node in nodes if isinstance(node, ast.Name)}
    if found & DYNAMIC:
        found |= {
            node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return found


def _within(node: ast.stmt) -> list[ast.stmt]:
    """A statement, or those in a `try` or an `if`, without `pass`."""
    if not isinstance(node, ast.Try | ast.If):
        return [node]
    bodies = [node.body, node.orelse]
    if isinstance(node, ast.Try):
        bodies += [node.finalbody, *(handler.body for handler in node.handlers)]
    inner = itertools.chain.from_iterable(bodies)
    return [found for item in inner if not isinstance(item, ast.Pass) for found in _within(item)]


def _changed(node: ast.stmt) -> set[str]:
    """Names whose objects a statement sets an item or an attribute of, or calls a method of, for its sake."""
    targets = [item for item in ast.walk(node) if isinstance(item, ast.Attribute | ast.Subscript)]
    changed = [item for item in targets if not isinstance(item.ctx, ast.Load)]
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        changed.append(node.value.func)
    found = set()
    for item in changed:
        while isinstance(item, ast.Attribute | ast.Subscript):
            item = item.value
            if isinstance(item, ast.Name):
                found.add(item.id)
    return found


def _parsed(setup: str) -> ast.Module:
    try:
        return ast.parse(setup)
    except NOT_PYTHON as error:
        raise InputError(f"a setup is not Python ({error}): {setup[:80]!r}; fix the problem file") from error


def _names_of(text: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Names that a text binds, global names that it uses, and those that it uses when it runs."""
    try:
        top = symtable.symtable(text, "<setup>", "exec")
    except NOT_PYTHON as error:
        raise InputError(f"a setup is not Python ({error}): {text[:80]!r}; fix the problem file") from error
    binds = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    uses, now = set(), set()
    for table, at_once in _tables(top, True):
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (symbol.is_global() or table.get_type() == "module"):
                uses.add(symbol.get_name())
                if at_once:
                    now.add(symbol.get_name())
            if symbol.is_assigned() and symbol.is_declared_global():
                binds.add(symbol.get_name())
    return frozenset(binds), frozenset(uses), frozenset(now)


def _tables(table: symtable.SymbolTable, at_once: bool) -> Iterator[tuple[symtable.SymbolTable, bool]]:
    """The tables of names, and whether each one's code runs when the statement does."""
    yield table, at_once
    for child in table.get_children():
        runs = child.get_type() == "class" or child.get_name() in COMPREHENSIONS
        yield from _tables(child, at_once and runs)
