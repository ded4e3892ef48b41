"""Records (JSON objects) of a local file, and their fields, read strictly: an InputError names what is wrong.

A file is JSON lines or one JSON list, either of them gzipped, or Parquet; it may lie in a bucket. The readers
of fields take a record, a field's name, and `where`, which begins every message ("mbpp.jsonl record 7").
Knows no data set's fields, and says nothing of keys that nobody asks for.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from o1jax.records import InputError

Record = Mapping[str, Any]


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
