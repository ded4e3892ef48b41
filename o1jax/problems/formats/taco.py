"""TACO's published format (FlagOpen/TACO, arXiv 2312.14852), and that of APPS (arXiv 2105.09938), its model.

Call form is there where `input_output` has `fn_name`: the judge calls Problem.entry_point, either a
function of the module or, failing that, a method of its class Solution (both occur). Runs no
program: inconsistent problems are found by prepare/check_problems.py.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from typing import Any

from o1jax.problems import files
from o1jax.records import InputError, Problem, TestCase

_NUMBER_AND_UNIT = re.compile(r"\s*(\d{1,12}(?:\.\d*)?)\s*([a-z]+)", re.ASCII)
_MEGABYTES = {"byte": 2**-20, "kb": 2**-10, "kilobyte": 2**-10, "mb": 1, "megabyte": 1, "gigabyte": 1024}


def apps_problem_of(record: dict[str, Any], index: int, where: str, split: str = "train") -> Problem:
    """The problem of one APPS record, as problem_of."""
    problem = problem_of(record, index, where, split)
    return dataclasses.replace(problem, id=f"apps/{split}/{index}", source="apps")


def problem_of(record: dict[str, Any], index: int, where: str, split: str = "train") -> Problem:
    """The problem of one TACO record, whose tests are hidden on split test; `where` begins the message of any
    InputError."""
    cases = _json(record, "input_output", dict, where)
    entry_point = files.optional_text(cases, "fn_name", f"{where} field 'input_output'")
    tests = _tests(cases, bool(entry_point), f"{where} field 'input_output'")
    return Problem(
        id=f"taco/{split}/{index}",
        question=files.text(record, "question", where),
        form="call" if entry_point else "stdin",
        tests=() if split == "test" else tests,
        hidden_tests=tests if split == "test" else (),
        entry_point=entry_point,
        starter_code=files.optional_text(record, "starter_code", where),
        solutions=tuple(_solutions(record, where)),
        difficulty=files.optional_text(record, "difficulty", where),
        source=f"taco/{record.get('source') or 'unknown'}",
        tags=_tags(record.get("tags")),
        time_limit_s=_seconds(files.optional_text(record, "time_limit", where)),
        memory_limit_mb=_megabytes(files.optional_text(record, "memory_limit", where)),
    )


def _json(record: dict[str, Any], field: str, kind: type, where: str) -> Any:
    """A field that is stored as JSON text or, in some copies, already parsed."""
    value = record.get(field)
    if isinstance(value, str):
        value = files.parsed_json(value, f"{where} field {field!r}")
    if not isinstance(value, kind):
        raise InputError(f"{where} field {field!r}: saw {type(value).__name__}, wanted {kind.__name__}")
    return value


def _solutions(record: dict[str, Any], where: str) -> list[str]:
    solutions = _json(record, "solutions", list, where) if record.get("solutions") else []
    if not files.is_texts(solutions):
        raise InputError(f"{where} field 'solutions': saw an entry that is not text, wanted programs")
    return solutions


def _tests(cases: dict[str, Any], is_call: bool, where: str) -> tuple[TestCase, ...]:
    inputs, outputs = cases.get("inputs"), cases.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise InputError(f"{where}: saw no lists 'inputs' and 'outputs', wanted both")
    if len(inputs) != len(outputs) or not inputs:
        raise InputError(
            f"{where}: saw {len(inputs)} inputs and {len(outputs)} outputs, wanted as many, and one at least"
        )
    if is_call:
        return _call_tests(inputs, outputs, where)
    return tuple(TestCase(_text(i, where), _text(o, where)) for i, o in zip(inputs, outputs, strict=True))


def _text(value: Any, where: str) -> str:
    """Standard input or output: text, or a list of its lines."""
    if isinstance(value, str):
        return value
    if files.is_texts(value):
        return "\n".join(value)
    raise InputError(f"{where}: saw {type(value).__name__} as standard input or output, wanted text or lines")


def _call_tests(inputs: list[Any], outputs: list[Any], where: str) -> tuple[TestCase, ...]:
    """Arguments and value of each call; a list of one around every output is TACO's wrapping."""
    wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
    tests = []
    for arguments, output in zip(inputs, outputs, strict=True):
        if isinstance(arguments, str):
            lines, wanted = arguments.split("\n"), "wanted one JSON value a line"
            try:
                arguments = [json.loads(line) for line in lines if line.strip()]
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: saw arguments {arguments!r:.40}, {wanted}") from error
        if not isinstance(arguments, list):
            raise InputError(f"{where}: saw {type(arguments).__name__} as arguments, wanted a list")
        value = _with_integer_keys(output[0] if wrapped else output)
        arguments = [_with_integer_keys(argument) for argument in arguments]
        try:
            tests.append(TestCase(repr(arguments), repr(value)))
        except RecursionError as error:
            raise InputError(f"{where}: saw a value nested too deep, wanted one that can be shown") from error
    return tuple(tests)


def _with_integer_keys(value: Any) -> Any:
    """JSON made a dictionary's integer keys text: back again, as TACO's own checker does."""
    if isinstance(value, dict) and value and all(re.fullmatch(r"-?\d+", key) for key in value):
        return {int(key): item for key, item in value.items()}
    return value


def _tags(value: Any) -> tuple[str, ...]:
    """A list of tags, or its Python literal; whatever else stands there is no tag."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return ()
    return tuple(tag for tag in value if isinstance(tag, str)) if isinstance(value, list) else ()


def _seconds(text: str) -> float:
    """A limit such as "1 seconds"; 0 (the judge's default) where none can be read."""
    found = _NUMBER_AND_UNIT.match(text.lower())
    return float(found[1]) if found and found[2].startswith("sec") else 0.0


def _megabytes(text: str) -> int:
    """A limit such as "256 megabytes"; 0 if none can be read or, as "50000 bytes", none can be meant."""
    found = _NUMBER_AND_UNIT.match(text.lower())
    return int(float(found[1]) * _MEGABYTES.get(found[2].rstrip("s"), 0)) if found else 0
