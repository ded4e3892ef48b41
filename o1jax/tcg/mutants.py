"""Mutants: programs that differ from a reference program by one small change on its syntax tree.

Chooses among the changes of mutations.py; runs nothing, and does not know which mutants are wrong. (mutmut
and cosmic-ray mutate a project's files and run its test-suite, which is another task.)
"""

from __future__ import annotations

import ast
import itertools
import random
import warnings
from collections.abc import Iterator

from o1jax.parallel.seeds import fold_seed
from o1jax.records import InputError
from o1jax.tcg.mutations import Edit, edits_of


def mutants(source: str, most: int, seed: int) -> tuple[str, ...]:
    """At most `most` different mutants of `source`, drawn evenly over the kinds of change.

    Each compiles, and differs from the others and from the source as `ast.unparse` writes it. Kinds:
    comparison, arithmetic, constant, bound, condition, call, keyword, drop, swap. Raises InputError where the
    source does not parse.
    """
    tree, plain = _tree(source)
    seen, found = {plain}, []
    for edit in _balanced(edits_of(tree), random.Random(fold_seed(seed, "mutants", source))):
        if len(found) >= most:
            break
        text = _unparsed(tree, edit)
        if text not in seen and _compiles(text):
            found.append(text)
        seen.add(text)
    return tuple(found)


def parses(source: str) -> bool:
    """Whether `mutants` can read `source`: published sets hold Python 2 among their references."""
    try:
        _tree(source)
    except InputError:
        return False
    return True


def _tree(source: str) -> tuple[ast.Module, str]:
    """The syntax tree, and the source as `ast.unparse` writes it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(source)
            return tree, ast.unparse(tree)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise InputError(f"no mutants of a program that does not parse ({error}): {source[:60]!r}") from error


def _balanced(edits: list[Edit], rng: random.Random) -> Iterator[Edit]:
    """All edits, one of each kind in turn; the order of kinds and within a kind is drawn."""
    by_kind: dict[str, list[Edit]] = {}
    for edit in edits:
        by_kind.setdefault(edit.kind, []).append(edit)
    queues = list(by_kind.values())
    for queue in queues:
        rng.shuffle(queue)
    rng.shuffle(queues)
    # In turn: a program has many constants and few calls, so an even draw would hardly ever change a call.
    for turn in itertools.zip_longest(*queues):
        yield from (edit for edit in turn if edit is not None)


def _unparsed(tree: ast.Module, edit: Edit) -> str:
    """The program with one edit made; the tree is as before afterwards."""
    # In place and undone: a deep copy of the tree for every edit takes far longer than the edit.
    fields = vars(edit.node)
    before = {name: fields[name] for name in edit.changes}
    try:
        fields.update(edit.changes)
        return ast.unparse(tree)
    finally:
        fields.update(before)


def _compiles(text: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(text, "<mutant>", "exec", dont_inherit=True)
        return True
    except (SyntaxError, ValueError):  # of a `break` that was moved out of its loop, say
        return False
