"""Records in Parquet files: one file written whole, or a directory of shards that grows.

A file appears under its name only when it is complete (written under a name in `.part`, then renamed):
a kill loses what was not yet written and nothing else, and a `.part` file is ignored. Holds no order of
its own: a shard's rows are in order of arrival, and readers sort. Paths may lie in a bucket.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Sequence
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from o1jax.parallel.seeds import stable_hash
from o1jax.records import InputError, Tree
from o1jax.search.rows import records_of, table_of

T = TypeVar("T")
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_records(path: epath.PathLike, cls: type[T], records: Sequence[T]) -> None:
    """Writes all `records` (of a dataclass of records.py) as one Parquet file, atomically.

    Raises InputError when the disk is full; an earlier file of that name is then still whole.
    """
    path = epath.Path(path)
    buffer = io.BytesIO()
    pq.write_table(table_of(cls, records), buffer, compression="zstd")
    part = path.parent / f"{path.name}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(buffer.getvalue())
        part.replace(path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        part.unlink(missing_ok=True)
        raise InputError(
            f"{path}: the disk is full; free some space and run again (what was written before is kept)"
        ) from error


def read_records(path: epath.PathLike, cls: type[T]) -> list[T]:
    """The records of one file. Raises InputError that names a missing or damaged file."""
    path = epath.Path(path)
    try:
        return records_of(cls, pq.read_table(io.BytesIO(path.read_bytes())))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run the stage that writes it") from error
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a whole Parquet file of {cls.__name__} ({reason}); delete it and run again"
        ) from error


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

    def append(self, record: T) -> None:
        """Raises InputError when a shard is due and the disk is full."""
        self.extend([record])

    def extend(self, records: Sequence[T]) -> None:
        """As `append`, and all of them get into one shard."""
        self._pending += records
        if len(self._pending) >= self.rows or time.monotonic() - self._flushed_at >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending."""
        if self._pending:
            name = f"{stable_hash(repr(self._pending)):016x}.parquet"
            write_records(self.directory / name, self.cls, self._pending)
            self._pending = []
        self._flushed_at = time.monotonic()

    def __enter__(self) -> ShardWriter[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


def read_shards(directory: epath.PathLike, cls: type[T]) -> list[T]:
    """All records of a directory, shard by shard in order of name; none if it does not exist."""
    directory = epath.Path(directory)
    if not directory.exists():
        return []
    shards = sorted(path for path in directory.iterdir() if path.suffix == ".parquet")
    return [record for shard in shards for record in read_records(shard, cls)]


def read_trees(directory: epath.PathLike, problem_ids: Sequence[str] | None = None) -> list[Tree]:
    """The trees of a directory, one a problem, in the order of `problem_ids` (without: sorted by id).

    A problem without a tree is left out.
    """
    trees = {tree.problem_id: tree for tree in read_shards(directory, Tree)}
    order = sorted(trees) if problem_ids is None else problem_ids
    return [trees[problem_id] for problem_id in order if problem_id in trees]
