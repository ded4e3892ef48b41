"""Our own format: a JSON object a problem, with the field names of records.Problem.

Reads strictly: an unknown or missing field, or a value of another type, is an InputError that
names the record and the field. Published sets' formats are read by their own files.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from o1jax.records import ACTIONS, CALL_GRADERS, GRADERS, InputError, Problem, Step, TestCase

_FIELDS = {field.name: field for field in dataclasses.fields(Problem)}
_TEXTS = (
    *("id", "question", "form", "entry_point", "starter_code", "setup", "prelude"),
    *("difficulty", "source", "grader"),
)
_GRADERS = {"stdin": ("", *GRADERS), "call": ("", *CALL_GRADERS), "assertion": ("",)}
_MOST = {"time_limit_s": 86_400.0, "memory_limit_mb": 1e9}  # inf and nan are JSON to Python, and no limit


def problem_of(record: dict[str, Any], where: str) -> Problem:
    """The problem that a JSON object spells out; `where` begins the message of any InputError."""
    unknown = sorted(set(record) - set(_FIELDS))
    if unknown:
        raise InputError(f"{where}: unknown field {unknown[0]!r}, wanted fields of {sorted(_FIELDS)}")
    for name in ("id", "question", "form"):
        if not record.get(name):
            raise InputError(f"{where} field {name!r}: missing or empty, wanted text")
    values = {name: _field(name, value, f"{where} field {name!r}") for name, value in record.items()}
    if values["form"] not in _GRADERS:
        raise InputError(f"{where} field 'form': saw {values['form']!r}, wanted one of {tuple(_GRADERS)}")
    if values["form"] == "call" and not values.get("entry_point"):
        raise InputError(f"{where} field 'entry_point': missing or empty, wanted the function's name")
    graders = _GRADERS[values["form"]]
    if values.get("grader", "") not in graders:
        raise InputError(f"{where} field 'grader': saw {values['grader']!r}, wanted one of {graders}")
    return Problem(**values)


def _field(name: str, value: Any, where: str) -> Any:
    if name in _TEXTS:
        return _checked(value, str, where)
    if name in ("tests", "hidden_tests"):
        return tuple(_test(item, where) for item in _checked(value, list, where))
    if name in ("solutions", "tags"):
        return tuple(_checked(item, str, where) for item in _checked(value, list, where))
    if name == "reasoning":
        chains = [_checked(chain, list, where) for chain in _checked(value, list, where)]
        return tuple(tuple(_step(item, where) for item in chain) for chain in chains)
    if name == "json_values":
        return _checked(value, bool, where)
    number = _checked(value, (int, float), where)
    if not 0 <= number <= _MOST[name]:
        raise InputError(f"{where}: saw {number!r:.40}, wanted 0 (the judge's default) to {_MOST[name]:.0f}")
    return float(number) if name == "time_limit_s" else int(number)


def _checked(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise InputError(
            f"{where}: saw {type(value).__name__}, wanted {' or '.join(k.__name__ for k in kinds)}"
        )
    return value


def _test(item: Any, where: str) -> TestCase:
    if set(_checked(item, dict, where)) - {"input", "output"} or "input" not in item:
        raise InputError(f"{where}: saw a test with {sorted(item)}, wanted input and output")
    return TestCase(_checked(item["input"], str, where), _checked(item.get("output", ""), str, where))


def _step(item: Any, where: str) -> Step:
    if set(_checked(item, dict, where)) != {"action", "text"} or item["action"] not in ACTIONS:
        raise InputError(f"{where}: saw {item!r:.60}, wanted a step with an action of {ACTIONS} and text")
    return Step(item["action"], _checked(item["text"], str, where))
