"""What programs say on given inputs, and what they go through: the raw material of tests and of majorities.

An output is what a program prints or returns. A trace is its lines with the value after each: the program is
rewritten to note, after every statement of its own level (the module's, or the body of the function that is
called), the value that the statement changed (`x = x * 2 -> 14`), as print shows it, a list's items side by
side. Programs run in the sandbox, as any, and what comes back is their own word. Does not judge.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from o1jax.digits import many_digits
from o1jax.records import CaseResult, InputError, Problem, TestCase
from o1jax.sandbox.interface import Job, Judge, Limits, job_of, verdict_of
from o1jax.sandbox.literals import parsed
from o1jax.tcg.mutants import parses
from o1jax.tcg.prompt import Case

MOST_CHARACTERS = 1 << 16  # of a returned value's literal: reading longer ones would hold up everybody
LONGEST_VALUE = 200  # characters of a value that a trace shows
MOST_VALUES = 24  # of a trace: a longer one is too much for a model to write by heart
INPUTS_A_PROCESS = 8  # that are traced one after another: a process costs more than most programs
# As in the judge (sandbox/jail/calls.py): the program's own names win over the setup's, which runs after the
# program only where it needs it; a Solution's method wins over an imported function.
ENTRY_POINT = """
import builtins
def entry_point(name, prelude, setup, program, names):
    exec(prelude, names)
    late = False
    try:
        exec(setup, names)
    except NameError:
        late = True
    if name in names:
        setattr(builtins, name, names.pop(name))
    given = dict(names)
    exec(program, names)
    if late:
        own = [item for item in names.items() if given.get(item[0], given) is not item[1]]
        exec(setup, names)
        names.update(own)
    found, solution = names.get(name), names.get("Solution")
    imported = found is not None and getattr(found, "__module__", None) != names["__name__"]
    if found is None or solution is not None and imported and hasattr(solution, name):
        found = getattr(solution(), name)
    return found
"""
# A call's value comes back over standard output, on the last line, whatever the program printed before: the
# judge keeps outputs in stdin form, and in call form it only compares.
OUTPUT_DRIVER = (
    ENTRY_POINT
    + """
import ast, sys, types
text = sys.stdin.read()
module = sys.modules["solution"] = types.ModuleType("solution")
prelude = compile({prelude!r}, "<prelude>", "exec", dont_inherit=True)
setup = compile({setup!r}, "<setup>", "exec", dont_inherit=True)
program = compile({source!r}, "<program>", "exec", dont_inherit=True)
function = entry_point({name!r}, prelude, setup, program, module.__dict__)
arguments = ast.literal_eval(text)
if type(arguments) not in (list, tuple):
    raise TypeError("a list of arguments is needed")
value = function(*arguments)
sys.set_int_max_str_digits(0)
print("\\n" + repr(value))
"""
)
TRACE_DRIVER = (
    ENTRY_POINT
    + """\
import ast, gc, io, json, os, re, sys, threading

SETUP, CODE = compile({setup!r}, "setup", "exec"), compile({source!r}, "program", "exec")
PRELUDE = compile({prelude!r}, "prelude", "exec")
ENTRY, ADDRESS = {entry!r}, re.compile(" at 0x[0-9a-f]+>")

def show(value):
    text = " ".join(map(str, value)) if type(value) in (list, tuple) else str(value)
    return text if text.isprintable() and text.strip() else repr(value)

def give(text):
    gc.freeze()  # else a file that the last run left over may close this one's input
    end, begin = os.pipe()
    if end != 0:
        os.dup2(end, 0)
        os.close(end)
    threading.Thread(target=write, args=(begin, text.encode()), daemon=True).start()
    return open(0, encoding="utf-8", closefd=False)

def write(begin, data):
    try:
        with open(begin, "wb") as file:
            file.write(data)
    except BrokenPipeError:
        pass

def run(text):
    notes, last = [], [None]
    def note(line, value):
        try:
            shown = show(value())
        except NameError:  # set in a branch that was not taken
            return
        # What was just noted says nothing twice, and an address is another one in the next run.
        if len(shown) <= {longest} and shown != last[0] and not ADDRESS.search(shown):
            last[0] = shown
            notes.append(line + " -> " + shown)
    names = {{"__name__": "__main__", "_note": note}}  # fresh ones: no input sees what another left
    own = sys.stdin, sys.stdout
    sys.stdout = said = io.TextIOWrapper(io.BytesIO(), newline="")
    try:
        sys.stdin = give(text)
        if ENTRY:
            arguments = ast.literal_eval(text)
            return notes, repr(entry_point(ENTRY, PRELUDE, SETUP, CODE, names)(*arguments))
        exec(PRELUDE, names)
        exec(CODE, names)
        said.flush()
        return notes, said.buffer.getvalue().decode()
    except SystemExit as end:
        said.flush()
        return None if end.code or ENTRY else (notes, said.buffer.getvalue().decode())
    except Exception:
        return None
    finally:
        sys.stdin, sys.stdout = own

print(json.dumps([run(text) for text in json.load(sys.stdin)]))
"""
)


async def outputs_matrix(
    judge: Judge, problem: Problem, programs: Sequence[str], inputs: Sequence[str], limits: Limits
) -> list[list[str | None]]:
    """outputs_N_C of N programs on C inputs, each row as `outputs_of` gives it."""
    return await asyncio.gather(*(outputs_of(judge, problem, p, inputs, limits) for p in programs))


async def outputs_of(
    judge: Judge, problem: Problem, source: str, inputs: Sequence[str], limits: Limits
) -> list[str | None]:
    """The output of `source` on each input, in order, as TestCase.output would hold it.

    Form stdin: the text it prints. Form call: the literal of what the entry point returns on the literal
    of the arguments; it is read from the last line printed, so it is the program's own word. None where
    the program does not compile, ends badly, prints nothing at all, prints no UTF-8, or returns no value
    with a literal (of at most 65,536 characters). Raises InputError for assertion-form problems and
    JobLost where the infrastructure failed.
    """
    if problem.form == "assertion":
        raise InputError(f"{problem.id}: assertion form has no inputs; use a problem in stdin or call form")
    driver, read = source, _printed
    if problem.form == "call":
        read = _returned
        driver = OUTPUT_DRIVER.format(
            prelude=problem.prelude, setup=problem.setup, source=source, name=problem.entry_point
        )
    job = job_of(problem, driver, [TestCase(text) for text in inputs], limits)
    verdict = await verdict_of(judge, _as_stdin(job))
    return [read(problem, case) for case in verdict.cases][: len(inputs)]


def _as_stdin(job: Job) -> Job:
    """The job of a program that reads and prints, whatever the problem's form; there is nothing to grade."""
    prelude = job.prelude if job.form == "stdin" else ""  # a function's driver runs it
    return dataclasses.replace(
        job, form="stdin", entry_point="", setup="", prelude=prelude, grader="", keep_output=True
    )


def _printed(problem: Problem, case: CaseResult) -> str | None:
    """U+FFFD stands where bytes were no UTF-8: no test could expect them."""
    return None if not case.output or "\ufffd" in case.output else case.output


def _returned(problem: Problem, case: CaseResult) -> str | None:
    if not case.output:
        return None
    line = case.output.rstrip("\n").rpartition("\n")[2]
    if len(line) > MOST_CHARACTERS:
        return None
    try:
        value = parsed(line)
    except InputError:  # what has no literal: an object, a generator, nan
        return None
    with many_digits():
        return repr(_as_lists(value) if problem.json_values else value)


def _as_lists(value: Any) -> Any:
    """Tuples as lists, for values that came through JSON: so equal values have one literal."""
    if type(value) in (list, tuple):
        return [_as_lists(item) for item in value]
    return {key: _as_lists(item) for key, item in value.items()} if type(value) is dict else value


async def traced_cases(
    judge: Judge, problem: Problem, source: str, inputs: Sequence[str], limits: Limits
) -> list[Case | None]:
    """A true case of each input, by running `source` on INPUTS_A_PROCESS of them a process, which has the
    limits of one as many times over; None where it raises, or goes through more than MOST_VALUES values, or
    (all of a process) does not end within the limits. Raises InputError for a source that does not parse or a
    problem in assertion form, and JobLost."""
    driver = TRACE_DRIVER.format(
        prelude=problem.prelude,
        setup=problem.setup,
        source=with_notes(problem, source),
        entry=problem.entry_point if problem.form == "call" else "",
        longest=LONGEST_VALUE,
    )
    parts = (inputs[at : at + INPUTS_A_PROCESS] for at in range(0, len(inputs), INPUTS_A_PROCESS))
    found = await asyncio.gather(*(_in_a_process(judge, problem, driver, part, limits) for part in parts))
    return [case for cases in found for case in cases]


async def _in_a_process(
    judge: Judge, problem: Problem, driver: str, inputs: Sequence[str], limits: Limits
) -> list[Case | None]:
    job = job_of(problem, driver, (TestCase(json.dumps(list(inputs))),), limits)
    own, n = job.limits, len(inputs)
    limits = dataclasses.replace(
        own, cpu_s=n * own.cpu_s, wall_s=n * own.wall_s, output_bytes=n * own.output_bytes
    )
    verdict = await verdict_of(judge, dataclasses.replace(_as_stdin(job), limits=limits))
    try:
        runs = json.loads(verdict.cases[0].output or "null") or [None] * len(inputs)
        short = [run if run is not None and len(run[0]) <= MOST_VALUES else None for run in runs]
        return [
            None if run is None else Case(TestCase(text, run[1]), tuple(run[0]))
            for text, run in zip(inputs, short, strict=True)
        ]
    except (ValueError, TypeError, IndexError):  # the program wrote over the driver's answer
        return [None] * len(inputs)


def with_notes(problem: Problem, source: str) -> str:
    """The program with a call of `_note` after each statement of its own level that changes a value."""
    if problem.form == "assertion":
        raise InputError(f"problem {problem.id}: form 'assertion' has no inputs to trace; leave it out")
    if not parses(source):
        raise InputError(f"problem {problem.id}: its program does not parse; leave it out: {source[:60]!r}")
    tree = ast.parse(source)
    # Of its own level alone: a note in a loop or a helper would make a trace as long as the run.
    if problem.form == "stdin":
        tree.body = list(_noted(tree.body))
    methods = [body for node in tree.body if isinstance(node, ast.ClassDef) for body in node.body]
    for node in (*tree.body, *methods):
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
    # A loop's own variable says where the loop ended, not what it did.
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
