"""Fields of a published record, read strictly: the InputError names record and field.

`where` begins every message ("mbpp.jsonl record 7"). Other keys of a record are nobody's business here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from o1jax.records import InputError

Record = Mapping[str, Any]


def text(record: Record, name: str, where: str) -> str:
    """Text that says something."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} field {name!r}: saw {value!r:.40}, wanted text")
    return value


def optional_text(record: Record, name: str, where: str) -> str:
    """Text, or "" where there is none."""
    value = record.get(name) or ""
    if not isinstance(value, str):
        raise InputError(f"{where} field {name!r}: saw {type(value).__name__}, wanted text")
    return value


def texts(record: Record, name: str, where: str) -> list[str]:
    """A list of texts, perhaps an empty one."""
    value = record.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where} field {name!r}: saw {value!r:.40}, wanted a list of texts")
    return value


def integer(record: Record, name: str, where: str) -> int:
    """A whole number."""
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where} field {name!r}: saw {value!r:.40}, wanted a whole number")
    return value


def optional_integer(record: Record, name: str, where: str) -> int:
    """A whole number of 0 or more, or 0 where there is none."""
    number = integer(record, name, where) if record.get(name) is not None else 0
    if number < 0:
        raise InputError(f"{where} field {name!r}: saw {number}, wanted 0 or more")
    return number


def mapping(record: Record, name: str, where: str) -> Record:
    """An object."""
    value = record.get(name)
    if not isinstance(value, Mapping):
        raise InputError(f"{where} field {name!r}: saw {value!r:.40}, wanted an object")
    return value
