"""MBPP (Austin et al., arXiv 2108.07732), full and sanitized, in its published format.

The question ends in the tests, as the paper's prompt has it: they alone name the function. A problem's
task id decides its split. Test problems are judged on `test_list`, as published; the others on the
challenge tests too. Knows no prompt (prompts/direct.py has the paper's).
"""

from __future__ import annotations

import ast
import dataclasses
import warnings
from typing import Any

from o1jax.problems import files
from o1jax.records import InputError, Problem, TestCase

TESTS_FOLLOW = " Your code should pass these tests:\n\n"
SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}  # task ids


def split_of(record: dict[str, Any], where: str) -> str:
    """The split that a record's task id falls in."""
    task_id = files.integer(record, "task_id", where)
    for split, (first, last) in SPLITS.items():
        if first <= task_id <= last:
            return split
    raise InputError(f"{where} field 'task_id': saw {task_id}, wanted 1 to 974")


def problem_of(record: dict[str, Any], index: int, where: str, split: str = "") -> Problem:
    """The problem of one record of either form; InputError for a malformed one. Neither the record's index
    nor `split` decides anything: its task id does."""
    sanitized = "prompt" in record
    name = "mbpp_sanitized" if sanitized else "mbpp"
    held_out = split_of(record, where) == "test"
    statement = files.text(record, "prompt" if sanitized else "text", where)
    asserts = files.texts(record, "test_list", where)
    if not asserts:
        raise InputError(f"{where} field 'test_list': saw no test, wanted one at least")
    more = [] if held_out or sanitized else files.texts(record, "challenge_test_list", where)
    tests = tuple(TestCase(_lines(text)) for text in [*asserts, *more])
    source = _lines(files.text(record, "code", where))
    return Problem(
        id=f"{name}/{record['task_id']}",
        question=_lines(statement.strip() + TESTS_FOLLOW + "\n".join(asserts)),
        form="assertion",
        tests=() if held_out else tests,
        hidden_tests=tests if held_out else (),
        entry_point=entry_point(source, asserts),
        setup="\n".join(files.texts(record, "test_imports", where))
        if sanitized
        else _lines(files.optional_text(record, "test_setup_code", where)),
        solutions=(source,),
        source=name,
        json_values=False,
    )


def without_tests(problem: Problem) -> Problem:
    """The problem, its question without the tests that end an MBPP problem's."""
    return dataclasses.replace(problem, question=problem.question.partition(TESTS_FOLLOW)[0])


def entry_point(source: str, asserts: list[str]) -> str:
    """The function of `source` that every test calls, the last defined of several; "" if there is none."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in other people's programs
            defined = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
            called = [_names_called(text) for text in asserts]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ""
    return next((name for name in reversed(defined) if all(name in names for names in called)), "")


def _names_called(text: str) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def _lines(text: str) -> str:
    """Line ends as Python writes them: the published full file has CR LF."""
    return text.replace("\r\n", "\n")
