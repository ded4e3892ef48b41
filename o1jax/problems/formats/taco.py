"""TACO's published format (FlagOpen/TACO, arXiv 2312.14852), and that of APPS (arXiv 2105.09938), its model.

Call form is there where `input_output` has `fn_name`: the judge calls Problem.entry_point, either a
function of the module or, failing that, a method of its class Solution (both occur). As in the checkers that
the sets came with, a program may count on the imports of PRELUDE, and a stated value may be in a list of one
or not, case by case (Problem.grader). Runs no program: inconsistent problems are found by
prepare/check_problems.py.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from typing import Any

from o1jax.digits import many_digits
from o1jax.problems import files
from o1jax.records import InputError, Problem, TestCase

# What the sets' checkers import before every program. numpy is there where the judge has it (judge_packages).
PRELUDE = """\
import collections, fractions, heapq, itertools, math, random, sys, time
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque
from functools import lru_cache
from heapq import *
from itertools import accumulate, combinations, permutations, product
from math import ceil, cos, exp, fabs, floor, gcd, log, log2, sin, sqrt, tan
from typing import List, Tuple
try:
    import numpy as np
except ImportError:
    pass
"""
STDIN_PRELUDE = PRELUDE + "stdin, stdout = sys.stdin, sys.stdout\n"
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
    tests, grader = _tests(cases, bool(entry_point), f"{where} field 'input_output'")
    return Problem(
        id=f"taco/{split}/{index}",
        question=files.text(record, "question", where),
        form="call" if entry_point else "stdin",
        tests=() if split == "test" else tests,
        hidden_tests=tests if split == "test" else (),
        entry_point=entry_point,
        starter_code=files.optional_text(record, "starter_code", where),
        prelude=PRELUDE if entry_point else STDIN_PRELUDE,
        solutions=tuple(_solutions(record, where)),
        difficulty=files.optional_text(record, "difficulty", where),
        source=f"taco/{record.get('source') or 'unknown'}",
        tags=_tags(record.get("tags")),
        time_limit_s=_seconds(files.optional_text(record, "time_limit", where)),
        memory_limit_mb=_megabytes(files.optional_text(record, "memory_limit", where)),
        grader=grader,
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


def _tests(cases: dict[str, Any], is_call: bool, where: str) -> tuple[tuple[TestCase, ...], str]:
    """The tests, and their grader."""
    inputs, outputs = cases.get("inputs"), cases.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise InputError(f"{where}: saw no lists 'inputs' and 'outputs', wanted both")
    if len(inputs) != len(outputs) or not inputs:
        raise InputError(
            f"{where}: saw {len(inputs)} inputs and {len(outputs)} outputs, wanted as many, and one at least"
        )
    if is_call:
        return _call_tests(inputs, outputs, where)
    pairs = zip(inputs, outputs, strict=True)
    return tuple(TestCase(_text(given, where), _text(wanted, where)) for given, wanted in pairs), ""


def _text(value: Any, where: str) -> str:
    """Standard input or output: text, or a list of its lines."""
    if isinstance(value, str):
        return value
    if files.is_texts(value):
        return "\n".join(value)
    raise InputError(f"{where}: saw {type(value).__name__} as standard input or output, wanted text or lines")


def _call_tests(inputs: list[Any], outputs: list[Any], where: str) -> tuple[tuple[TestCase, ...], str]:
    """Arguments and value of each call. Where every output is a list of one, as TACO wraps values, its item
    is the value; but the list may be, as in APPS, which the grader takes too."""
    outputs = [_as_checked(output) for output in outputs]
    wrapped = all(isinstance(output, list) and len(output) == 1 for output in outputs)
    tests = []
    for given, output in zip(inputs, outputs, strict=True):
        arguments = _arguments(given, where)
        try:
            with many_digits():
                tests.append(TestCase(repr(arguments), repr(output[0] if wrapped else output)))
        except RecursionError as error:
            raise InputError(f"{where}: saw a value nested too deep, wanted one that can be shown") from error
    return tuple(tests), "value_or_list" if wrapped else "value_or_item"


def _arguments(given: Any, where: str) -> list[Any]:
    """A list of them, or text with the JSON of one a line."""
    if isinstance(given, str):
        try:
            with many_digits():
                given = [json.loads(line) for line in given.split("\n") if line.strip()]
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: saw arguments {given!r:.40}, wanted one JSON value a line") from error
    if not isinstance(given, list):
        raise InputError(f"{where}: saw {type(given).__name__} as arguments, wanted a list")
    return [*map(_with_integer_keys, given)]


def _as_checked(output: Any) -> Any:
    """An output, in which a dictionary with integer keys alone is in a list of one, as the sets' checkers
    have it."""
    alone = output[0] if isinstance(output, list) and len(output) == 1 else output
    keyed = _with_integer_keys(alone)
    return output if keyed is alone else [keyed]


def _with_integer_keys(value: Any) -> Any:
    """JSON made a dictionary's integer keys text: back again, as the sets' checkers do it. The same object
    where there are none."""
    if not isinstance(value, dict) or not value:
        return value
    try:
        with many_digits():
            return {int(key): item for key, item in value.items()}
    except ValueError:
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
