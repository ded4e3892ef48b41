"""Records as Parquet columns: the schema of a frozen dataclass, its rows, and back.

Knows records made of numbers, strings, enums, tuples, optional values and other such records.
Reads and writes no files.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import pyarrow as pa

T = TypeVar("T")
# Large: of nested plain strings Parquet reads no more than 2 GiB back.
PLAIN = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.large_string()}


def schema_of(cls: type) -> pa.Schema:
    """One column a field, named as it is."""
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _hints(cls).items()])


def table_of(cls: type[T], records: Sequence[T]) -> pa.Table:
    """One row a record."""
    return pa.Table.from_pylist([_row(record) for record in records], schema=schema_of(cls))


def records_of(cls: type[T], table: pa.Table) -> list[T]:
    """The records of a table that `table_of` made; a column that is not there, as in files from before
    its field was, gives the field's default. Raises KeyError where it has none."""
    return [_value(cls, row) for row in table.to_pylist()]


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _arrow_type(hint: Any) -> pa.DataType:
    hint = _present(hint)
    if dataclasses.is_dataclass(hint):
        return pa.struct([pa.field(name, _arrow_type(inner)) for name, inner in _hints(hint).items()])
    if typing.get_origin(hint) is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if typing.get_origin(hint) is typing.Literal or issubclass(hint, enum.StrEnum):
        return pa.string()
    return PLAIN[hint]


def _present(hint: Any) -> Any:
    """X of `X | None`, else the hint itself."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(inner for inner in typing.get_args(hint) if inner is not type(None))
    return hint


def _is_required(cls: type, name: str) -> bool:
    field = cls.__dataclass_fields__[name]
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _row(record: Any) -> dict[str, Any]:
    return {name: _plain(getattr(record, name)) for name in _hints(type(record))}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _row(value)
    if isinstance(value, tuple) and value and not isinstance(value[0], (int, float, str)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, enum.StrEnum) else value


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    hint = _present(hint)
    if dataclasses.is_dataclass(hint):
        kept = {
            name: inner for name, inner in _hints(hint).items() if name in value or _is_required(hint, name)
        }
        return hint(**{name: _value(inner, value[name]) for name, inner in kept.items()})
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(value) if inner in PLAIN else tuple(_value(inner, item) for item in value)
    return hint(value) if isinstance(hint, type) and issubclass(hint, enum.StrEnum) else value
