"""What a program goes through: its lines with the value after each, and what it says at the end.

The program is rewritten to note, after every statement of its own level (the module's, or the body of
the function that is called), the value that the statement changed: `x = x * 2 -> 14`, so that what is
done stands beside what it is done to. A value is shown as print shows it, a list's items side by side.
The program runs in the sandbox, as any, and what comes back is its own word. Does not judge.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Iterator, Sequence

from o1jax.prompts.test_cases import Case
from o1jax.records import InputError, Problem, TestCase
from o1jax.sandbox.interface import Judge, Limits, job_of

LONGEST_VALUE, MOST_VALUES = 200, 24
_DRIVER = """\
import ast, io, json, sys

CODE, ENTRY = compile({source!r}, "program", "exec"), {entry!r}

def show(value):
    text = " ".join(map(str, value)) if type(value) in (list, tuple) else str(value)
    return text if text.isprintable() and text.strip() else repr(value)

def run(text):
    notes, last = [], [None]
    def note(line, value):
        try:
            shown = show(value())
        except NameError:
            return
        if len(shown) <= {longest} and shown != last[0]:
            last[0] = shown
            notes.append(line + " -> " + shown)
    names = {{"__name__": "__main__", "_note": note}}
    own = sys.stdin, sys.stdout
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
    sys.stdout = said = io.TextIOWrapper(io.BytesIO(), newline="")
    try:
        exec(CODE, names)
        value = repr(names[ENTRY](*ast.literal_eval(text))) if ENTRY else None
        said.flush()
        return notes, said.buffer.getvalue().decode() if value is None else value
    except SystemExit as end:
        said.flush()
        return None if end.code or ENTRY else (notes, said.buffer.getvalue().decode())
    except Exception:
        return None
    finally:
        sys.stdin, sys.stdout = own

print(json.dumps([run(text) for text in json.load(sys.stdin)]))
"""


async def traced_cases(
    judge: Judge, problem: Problem, source: str, inputs: Sequence[str], limits: Limits
) -> list[Case | None]:
    """A true case of each input, by running `source` on all of them in one process; None where it raises,
    or goes through more than MOST_VALUES values, or (all of them) does not end within the limits. Raises
    InputError for a source that does not parse or a problem in assertion form."""
    driver = _DRIVER.format(
        source=with_notes(problem, source), entry=problem.entry_point, longest=LONGEST_VALUE
    )
    job = job_of(problem, driver, (TestCase(json.dumps(list(inputs))),), limits)
    verdict = await judge.judge(dataclasses.replace(job, form="stdin", entry_point="", keep_output=True))
    try:
        runs = json.loads(verdict.cases[0].output or "null") or [None] * len(inputs)
        return [_case(text, run) for text, run in zip(inputs, runs, strict=True)]
    except (ValueError, TypeError, IndexError):  # the program wrote over the driver's answer
        return [None] * len(inputs)


def _case(text: str, run: tuple[list[str], str] | None) -> Case | None:
    if run is None or len(run[0]) > MOST_VALUES:
        return None
    notes, said = run
    return Case(TestCase(text, said), tuple(notes))


def with_notes(problem: Problem, source: str) -> str:
    """The program with a call of `_note` after each statement of its own level that changes a value."""
    if problem.form == "assertion":
        raise InputError(f"problem {problem.id}: form 'assertion' has no inputs to trace; leave it out")
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(
            f"problem {problem.id}: its program does not parse ({error}); leave it out"
        ) from error
    if problem.form == "stdin":
        tree.body = list(_noted(tree.body))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            node.body = list(_noted(node.body))
    return ast.unparse(ast.fix_missing_locations(tree))


def _noted(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in statements:
        yield statement
        name = _changed(statement)
        if name is not None:
            line = ast.unparse(statement).split("\n")[0]
            yield ast.parse(f"_note({line!r}, lambda: {name})").body[0]  # deferred: it may not be bound


def _changed(statement: ast.stmt) -> str | None:
    """The name whose value a statement changes: assigned, or appended to in a loop; None where it is a
    first constant (`y = []`), which says nothing."""
    if isinstance(statement, ast.Assign) and _is_constant(statement.value):
        return None
    loop = statement.target if isinstance(statement, ast.For) else None
    own = {node.id for node in ast.walk(loop) if isinstance(node, ast.Name)} if loop else set()
    names = [name for node in ast.walk(statement) for name in _names(node) if name not in own]
    return names[0] if names else None


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            yield called.value.id


def _is_constant(value: ast.expr) -> bool:
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
