"""Assertion problems in call form, where every test is `assert f(literals) == literal`.

Call form has inputs and outputs, which a test-case generator writes and a majority of programs is asked for.
It tells True from 1, which == does not: else the same passes. Runs no program.
"""

from __future__ import annotations

import ast
import dataclasses
import warnings
from collections.abc import Sequence

from o1jax.records import Problem, TestCase


def as_calls(problem: Problem) -> Problem:
    """The problem in call form, or as it is where a test says more than one call can."""
    if problem.form != "assertion" or not problem.entry_point:
        return problem
    tests, hidden = (_calls(kind, problem.entry_point) for kind in (problem.tests, problem.hidden_tests))
    if tests is None or hidden is None:
        return problem
    return dataclasses.replace(problem, form="call", tests=tests, hidden_tests=hidden)


def _calls(tests: Sequence[TestCase], name: str) -> tuple[TestCase, ...] | None:
    calls = [_call(test.input, name) for test in tests]
    return None if None in calls else tuple(calls)


def _call(text: str, name: str) -> TestCase | None:
    """`assert name(arguments) == value` as arguments and value, or None for any other text."""
    try:
        with warnings.catch_warnings(action="ignore"):
            (statement,) = ast.parse(text).body
        compared = statement.test if isinstance(statement, ast.Assert) else None
        if not isinstance(compared, ast.Compare) or [*map(type, compared.ops)] != [ast.Eq]:
            return None
        call = compared.left
        if not isinstance(call, ast.Call) or call.keywords or ast.unparse(call.func) != name:
            return None
        arguments = [ast.literal_eval(argument) for argument in call.args]
        return TestCase(repr(arguments), repr(ast.literal_eval(compared.comparators[0])))
    # Of literal_eval, and of no or many statements.
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
