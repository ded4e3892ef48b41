"""What programs print or return on given inputs, as text: the raw material of tests and of majorities.

Judges nothing: an output is the program's own word, and is only as good as the program.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from o1jax.records import CaseResult, InputError, Problem, TestCase
from o1jax.sandbox.interface import Job, Judge, Limits, job_of
from o1jax.sandbox.literals import any_digits, parsed

MOST_CHARACTERS = 1 << 16  # of a returned value's literal: reading longer ones would hold up everybody
ENTRY_POINT = """
def entry_point(name, setup, program, names):
    try:
        exec(setup, names)
    except NameError:
        pass
    exec(program, names)
    exec(setup, names)
    return names[name] if name in names else getattr(names["Solution"](), name)
"""  # setup runs before the program too, for programs that need it; it may need the program itself
DRIVER = (
    ENTRY_POINT
    + """
import ast, sys, types
text = sys.stdin.read()
module = sys.modules["solution"] = types.ModuleType("solution")
setup = compile({setup!r}, "<setup>", "exec", dont_inherit=True)
program = compile({source!r}, "<program>", "exec", dont_inherit=True)
function = entry_point({name!r}, setup, program, module.__dict__)
arguments = ast.literal_eval(text)
if type(arguments) not in (list, tuple):
    raise TypeError("a list of arguments is needed")
value = function(*arguments)
sys.set_int_max_str_digits(0)
print("\\n" + repr(value))
"""
)


async def outputs_of(
    judge: Judge, problem: Problem, source: str, inputs: Sequence[str], limits: Limits
) -> list[str | None]:
    """The output of `source` on each input, in order, as TestCase.output would hold it.

    Form stdin: the text it prints. Form call: the literal of what the entry point returns on the literal
    of the arguments; it is read from the last line printed, so it is the program's own word. None where
    the program does not compile, ends badly, prints nothing at all, prints no UTF-8, or returns no value
    with a literal (of at most 65,536 characters). Raises InputError for assertion-form problems and
    SandboxError where the infrastructure failed.
    """
    if problem.form == "assertion":
        raise InputError(f"{problem.id}: assertion form has no inputs; use a problem in stdin or call form")
    verdict = await judge.judge(_job(problem, source, inputs, limits))
    read = _printed if problem.form == "stdin" else _returned
    return [read(problem, case) for case in verdict.cases][: len(inputs)]


async def outputs_matrix(
    judge: Judge, problem: Problem, programs: Sequence[str], inputs: Sequence[str], limits: Limits
) -> list[list[str | None]]:
    """outputs_N_C of N programs on C inputs, each row as `outputs_of` gives it."""
    rows = (outputs_of(judge, problem, source, inputs, limits) for source in programs)
    return list(await asyncio.gather(*rows))


def _job(problem: Problem, source: str, inputs: Sequence[str], limits: Limits) -> Job:
    """A job in stdin form, whatever the problem's form."""
    if problem.form == "call":
        source = DRIVER.format(setup=problem.setup, source=source, name=problem.entry_point)
    job = job_of(problem, source, [TestCase(text) for text in inputs], limits)
    return dataclasses.replace(job, form="stdin", entry_point="", setup="", keep_output=True)


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
    with any_digits():
        return repr(_as_lists(value) if problem.json_values else value)


def _as_lists(value: Any) -> Any:
    """Tuples as lists, for values that came through JSON: so equal values have one literal."""
    if type(value) in (list, tuple):
        return [_as_lists(item) for item in value]
    return {key: _as_lists(item) for key, item in value.items()} if type(value) is dict else value
