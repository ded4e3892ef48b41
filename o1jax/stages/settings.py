"""Resolved config (JSON values) -> a stage's frozen settings. Unknown and missing keys are refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from o1jax.records import InputError

T = TypeVar("T")


def parse(cls: type[T], config: Mapping[str, Any], where: str = "config") -> T:
    """A `cls` (a frozen dataclass, perhaps of dataclasses) from a mapping; raises InputError that
    names the key, the value seen and the one wanted."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(config) - set(fields))
    if unknown:
        raise InputError(f"{where}.{unknown[0]}: no such key; {where} has {', '.join(fields)}")
    values = {name: _value(hints[name], config[name], f"{where}.{name}") for name in fields if name in config}
    required = [n for n, f in fields.items() if _has_no_default(f) and n not in values]
    if required:
        raise InputError(f"{where}.{required[0]}: missing; set it in the config file or with --config")
    return cls(**values)


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return tuple(_value(typing.get_args(hint)[0], item, where) for item in value)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise InputError(
                f"{where}: saw {value!r}, wanted one of {', '.join(map(str, typing.get_args(hint)))}"
            )
        return value
    if origin in (dict, Mapping, types.UnionType, typing.Union):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        raise InputError(f"{where}: saw {value!r}, wanted {hint.__name__}")
    return value
