"""Records (JSON objects) of a local file: JSON lines, one JSON list, either of them gzipped, or Parquet.

Knows no data set's fields. Paths may lie in a bucket.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from o1jax.records import InputError

Record = dict[str, Any]


def read_records(path: str) -> list[Record]:
    """The records of a file in order; InputError in one line for a missing, empty or damaged one."""
    source = epath.Path(path)
    if not source.is_file():
        raise InputError(f"{path}: no such file, wanted .jsonl, .json (both perhaps .gz) or .parquet")
    data = source.read_bytes()
    if source.suffix == ".gz":
        data = _unzipped(data, path)
    records = _of_parquet(data, path) if source.suffix == ".parquet" else _of_json(data, path)
    if not records:
        raise InputError(f"{path}: no problems in it, wanted at least one record")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(f"{path} record {i}: saw {type(record).__name__}, wanted a JSON object")
    return records


def _unzipped(data: bytes, path: str) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from error


def _of_parquet(data: bytes, path: str) -> list[Record]:
    try:
        return pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a whole Parquet file ({str(error).splitlines()[0]})") from error


def _of_json(data: bytes, path: str) -> list[Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    if text.lstrip().startswith("["):
        return _parsed(text, path)
    lines = [line for line in text.split("\n") if line.strip()]
    return [_parsed(line, f"{path} record {i}") for i, line in enumerate(lines)]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of an integer with thousands of digits
        raise InputError(f"{where}: not JSON ({error})") from error
