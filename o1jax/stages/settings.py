"""Resolved config (JSON values) -> a stage's frozen settings, checked by pydantic.

A nested record that is given in part keeps the stage's own defaults for the rest. Reads no flags, no files.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from o1jax.records import InputError

T = TypeVar("T")

TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "True or False",
    "tuple_type": "a list",
}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
# Keys that moved and were renamed; those that only moved into a nested record are found by their name.
RENAMED = {"rows_per_micro_batch": "train.rows_per_batch"}


def parse(cls: type[T], config: Mapping[str, Any], where: str = "config") -> T:
    """A `cls` (a frozen dataclass, perhaps of dataclasses) from a mapping of JSON values.

    Raises InputError in one line: the key, the value seen and the one wanted. Strict: no text becomes a
    number, no key is ignored.
    """
    # As JSON, where a list may stand for a tuple and 1 for 1.0; strict Python values would refuse both.
    whole = json.dumps(merged(defaults(cls), config))
    try:
        return TypeAdapter(cls).validate_json(whole, strict=True, extra="forbid")
    except ValidationError as error:
        raise _refusal(cls, error, where) from error


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of a settings record as plain values, nested records as mappings; required fields are left
    out. A nested record's are those of the field that holds it: two stages may differ in them."""
    found = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in found.items()}


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the values of `over`; where both hold a mapping that is not empty, key by key."""
    result = dict(under)
    for key, value in over.items():
        below = under.get(key)
        nested = isinstance(value, Mapping) and isinstance(below, Mapping) and below
        result[key] = merged(below, value) if nested else value
    return result


def _refusal(cls: type, error: ValidationError, where: str) -> InputError:
    """The first fault, in this project's words."""
    fault = error.errors()[0]
    path = [part for part in fault["loc"] if isinstance(part, str)]  # without the index in a tuple
    at, seen, bounds = ".".join([where, *path]), fault["input"], fault.get("ctx", {})
    if fault["type"] == "unexpected_keyword_argument":
        return InputError(_unknown_key(cls, path, where))
    if fault["type"] == "missing":
        return InputError(f"{at}: missing; set it in the config file or with --config")
    if fault["type"] == "value_error":  # a record's own check across its fields: its message names them
        return InputError(str(bounds["error"]))
    if fault["type"] == "literal_error":
        wanted = "one of " + bounds["expected"].replace("'", "").replace(" or ", ", ")
    elif found := [f"{words} {bounds[name]:g}" for name, words in BOUNDS.items() if name in bounds]:
        wanted = found[0]
    else:
        wanted = TYPES.get(fault["type"], fault["msg"])
    return InputError(f"{at}: saw {seen!r}, wanted {wanted}")


def _unknown_key(cls: type, path: list[str], where: str) -> str:
    """That there is no such key; and where a moved one is now."""
    *above, key = path
    for name in above:
        cls, where = typing.get_type_hints(cls)[name], f"{where}.{name}"
    if new := new_name(cls, key):
        return f"{where}.{key}: it is {where}.{new} now"
    return f"{where}.{key}: no such key; {where} has {', '.join(f.name for f in dataclasses.fields(cls))}"


def new_name(cls: type, key: str) -> str:
    """Where a key of a settings record went that was moved into one of its nested records, or ""."""
    hints = typing.get_type_hints(cls)
    if key in RENAMED and RENAMED[key].partition(".")[0] in hints:
        return RENAMED[key]
    records = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    holders = [name for name, hint in records.items() if key in {f.name for f in dataclasses.fields(hint)}]
    return f"{holders[0]}.{key}" if "train" in holders[:1] else ""
