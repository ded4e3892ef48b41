"""Records in Parquet files: one file written whole, or a directory of shards that grows.

A record is a frozen dataclass of numbers, strings, enums, tuples, optional values and other such records, and
each field a column. A file appears under its name only when it is complete: a kill loses what was not yet
written and nothing else. Holds no order of its own: a shard's rows are in order of arrival, and readers sort.
Paths may lie in a bucket.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import io
import time
import types
import typing
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from o1jax.buckets import until_listed
from o1jax.parallel.seeds import stable_hash
from o1jax.records import InputError, Tree
from o1jax.writing import write_whole

T = TypeVar("T")
# Large: of nested plain strings Parquet reads no more than 2 GiB back.
PLAIN = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.large_string()}


def write_records(path: epath.PathLike, cls: type[T], records: Sequence[T]) -> None:
    """Writes all `records` (of a dataclass of records.py) as one Parquet file, atomically.

    Raises InputError where the disk refuses it; an earlier file of that name is then still whole.
    """
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([_row(record) for record in records], schema=schema_of(cls))
    pq.write_table(table, buffer, compression="zstd")
    write_whole(epath.Path(path), buffer.getvalue())


def read_records(path: epath.PathLike, cls: type[T]) -> list[T]:
    """The records of one file; a column that it lacks, as files from before its field do, gives the field's
    default. Raises InputError that names a missing or damaged file, or one without a needed column."""
    path = epath.Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage that writes it") from error
    try:
        return [_value(cls, row) for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise damaged(path, cls.__name__, error) from error


def damaged(path: epath.Path, what: str, error: Exception) -> InputError:
    """The error for a file that does not hold what was written."""
    reason = str(error).splitlines()[0]
    return InputError(f"{path}: not a whole Parquet file of {what} ({reason}); delete it and run again")


class ShardWriter(Generic[T]):
    """Appends records to a directory, a shard for every `rows` of them or `seconds`, whichever is first.

    A shard is named by the records in it, so that processes share a directory without agreeing on
    numbers. Use as a context manager, or call `flush` at the end.
    """

    def __init__(self, directory: epath.PathLike, cls: type[T], *, rows: int = 64, seconds: float = 60.0):
        self.directory, self.cls = epath.Path(directory), cls
        self.rows, self.seconds = rows, seconds
        self._pending: list[T] = []
        self._flushed_at = time.monotonic()
        self._written: list[epath.Path] = []

    def append(self, record: T) -> None:
        """Raises InputError when a shard is due and the disk refuses it: the records stay pending."""
        self.extend([record])

    def extend(self, records: Sequence[T]) -> None:
        """As `append`, and all of them get into one shard."""
        self._pending += records
        if len(self._pending) >= self.rows or time.monotonic() - self._flushed_at >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending."""
        if self._pending:
            # Written again after a kill, the same records are the same file, and not there twice.
            path = self.directory / f"{stable_hash(repr(self._pending)):016x}.parquet"
            write_records(path, self.cls, self._pending)
            self._pending, self._written = [], [*self._written, path]
        self._flushed_at = time.monotonic()

    def __enter__(self) -> ShardWriter[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        until_listed(self._written)  # for read_shards, here or in another process


def read_shards(directory: epath.PathLike, cls: type[T]) -> list[T]:
    """All records of a directory, shard by shard in order of name; none if it does not exist."""
    return [record for shard in shard_paths(directory) for record in read_records(shard, cls)]


def shard_paths(directory: epath.PathLike) -> list[epath.Path]:
    """The shards of a directory, in order of name; none if it does not exist."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix == ".parquet")


def written_ids(path: epath.PathLike) -> set[str]:
    """The problem_ids in a shard, or in all of a directory: of large records little else is read. Raises
    InputError that names a damaged file."""
    path = epath.Path(path)
    if path.suffix != ".parquet":
        return {id for shard in shard_paths(path) for id in written_ids(shard)}
    try:
        with path.open("rb") as file:
            return set(pq.read_table(file, columns=["problem_id"])["problem_id"].to_pylist())
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise damaged(path, "records with a problem_id", error) from error


def read_trees(directory: epath.PathLike, problem_ids: Sequence[str] | None = None) -> list[Tree]:
    """The trees of a directory, one a problem, in the order of `problem_ids` (without: sorted by id).

    A problem without a tree is left out.
    """
    trees = {tree.problem_id: tree for tree in read_shards(directory, Tree)}
    order = sorted(trees) if problem_ids is None else problem_ids
    return [trees[problem_id] for problem_id in order if problem_id in trees]


def schema_of(cls: type) -> pa.Schema:
    """One column a field, named as it is."""
    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _hints(cls).items()])


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


def _row(record: Any) -> dict[str, Any]:
    return {name: _plain(getattr(record, name)) for name in _hints(type(record))}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _row(value)
    # Token ids and the like go as they are, without a call for each of them.
    if isinstance(value, tuple) and value and not isinstance(value[0], (int, float, str)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, enum.StrEnum) else value


def _value(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    hint = _present(hint)
    if dataclasses.is_dataclass(hint):
        fields = hint.__dataclass_fields__
        return hint(
            **{
                name: _value(inner, value[name])
                for name, inner in _hints(hint).items()
                if name in value
                or fields[name].default is dataclasses.MISSING  # then a KeyError that names it
            }
        )
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(value) if inner in PLAIN else tuple(_value(inner, item) for item in value)
    return hint(value) if isinstance(hint, type) and issubclass(hint, enum.StrEnum) else value
