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
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from o1jax.digits import MOST_DIGITS, many_digits
from o1jax.records import InputError

Record = Mapping[str, Any]


def read_records(path: str) -> list[Record]:
    """The records of a file in order; InputError in one line for a missing, empty or damaged one."""
    source = epath.Path(path)
    if not source.is_file():
        raise InputError(f"{path}: no such file, wanted .jsonl, .json (both perhaps .gz) or .parquet")
    data, suffix = source.read_bytes(), source.suffix
    try:
        if suffix == ".parquet":
            records = pq.read_table(io.BytesIO(data)).to_pylist()
        else:
            records = _of_json((gzip.decompress(data) if suffix == ".gz" else data).decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        kind, reason = "Parquet" if suffix == ".parquet" else "gzip", str(error).splitlines()[0]
        raise InputError(f"{path}: not a whole {kind} file ({reason})") from error
    if not records:
        raise InputError(f"{path}: no problems in it, wanted at least one record")
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise InputError(f"{path} record {i}: saw {type(record).__name__}, wanted a JSON object")
    return records


def _of_json(text: str, path: str) -> list[Any]:
    if text.lstrip().startswith("["):
        return parsed_json(text, path)
    lines = [line for line in text.split("\n") if line.strip()]
    return [parsed_json(line, f"{path} record {i}") for i, line in enumerate(lines)]


def parsed_json(text: str, where: str) -> Any:
    """The value of JSON text; InputError where it is none, or has an integer of more than MOST_DIGITS."""
    try:
        with many_digits():
            return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON (an integer of more than {MOST_DIGITS} digits)") from error


def _field(record: Record, name: str, where: str, wanted: str, fits: Callable[[Any], bool]) -> Any:
    value = record.get(name)
    if not fits(value):
        raise InputError(f"{where} field {name!r}: saw {value!r:.40}, wanted {wanted}")
    return value


def text(record: Record, name: str, where: str) -> str:
    """Text that says something."""
    return _field(record, name, where, "text", lambda v: isinstance(v, str) and v.strip() != "")


def optional_text(record: Record, name: str, where: str) -> str:
    """Text, or "" where there is none."""
    value = record.get(name) or ""
    if not isinstance(value, str):
        raise InputError(f"{where} field {name!r}: saw {type(value).__name__}, wanted text")
    return value


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts, perhaps an empty one."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def texts(record: Record, name: str, where: str) -> list[str]:
    """A list of texts, perhaps an empty one."""
    return _field(record, name, where, "a list of texts", is_texts)


def integer(record: Record, name: str, where: str) -> int:
    """A whole number."""
    wanted = "a whole number"
    return _field(record, name, where, wanted, lambda v: isinstance(v, int) and not isinstance(v, bool))


def optional_integer(record: Record, name: str, where: str) -> int:
    """A whole number of 0 or more, or 0 where there is none."""
    number = integer(record, name, where) if record.get(name) is not None else 0
    if number < 0:
        raise InputError(f"{where} field {name!r}: saw {number}, wanted 0 or more")
    return number


def mapping(record: Record, name: str, where: str) -> Record:
    """An object."""
    return _field(record, name, where, "an object", lambda v: isinstance(v, Mapping))
