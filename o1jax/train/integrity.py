"""A directory's record of its own files, written last: the mark that it is complete and undamaged.

Checked before a checkpoint is read, because the reading libraries answer a short or missing file
with screens of traces. Every byte is read for it, which for large models takes minutes: who must not wait
seals in a thread. Knows nothing of checkpoints.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.records import InputError
from o1jax.writing import write_whole

RECORD = "files.json"
READ_AT_ONCE = 1 << 24  # bytes
READERS = 8  # files at once


def seal(directory: epath.Path) -> None:
    """Writes the record of every file below `directory`: its size and CRC-32."""
    files = files_of(directory)
    record = dict(zip(files, described(files.values()), strict=True))
    write_whole(directory / RECORD, json.dumps(record, indent=1, sort_keys=True))


def is_sealed(directory: epath.Path) -> bool:
    """Whether the record is there."""
    return (directory / RECORD).exists()


def check_sealed(directory: epath.Path) -> None:
    """InputError naming the first file that is missing or is not as it was written. Every process looks at
    all sizes and reads its share of the files."""
    try:
        recorded = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(directory, f"{RECORD}: {error}") from error
    present = files_of(directory)
    if missing := [name for name in recorded if name not in present]:
        raise damaged(directory, f"{missing[0]} is missing")
    for name, (size, _) in recorded.items():
        if (size_now := present[name].stat().length) != size:
            raise damaged(directory, f"{name} has {size_now} bytes; written were {size}")
    index, count, _ = this_process()
    share = {name: crc for name, (_, crc) in sorted(recorded.items())[index::count] if crc is not None}
    now = described(present[name] for name in share)  # no CRC: large, and sealed before those were read
    for (name, crc), (_, crc_now) in zip(share.items(), now, strict=True):
        if crc_now != crc:
            raise damaged(directory, f"{name} has CRC {crc_now}; written was {crc}")


def files_of(directory: epath.Path, prefix: str = "") -> dict[str, epath.Path]:
    """Every file below, by its relative name; without the record itself."""
    files: dict[str, epath.Path] = {}
    for path in directory.iterdir():
        if path.is_dir():
            files |= files_of(path, f"{prefix}{path.name}/")
        elif not path.name.startswith(RECORD):
            files[prefix + path.name] = path
    return files


def described(paths: Iterable[epath.Path]) -> list[list[int]]:
    """[size in bytes, CRC-32] of each file, several read at once."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(describe, paths))


def describe(path: epath.Path) -> list[int]:
    """[size in bytes, CRC-32], of which READ_AT_ONCE bytes are held at a time."""
    size = crc = 0
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return [size, crc]


def damaged(directory: epath.Path, what: str) -> InputError:
    """The error for a directory that is not what was written."""
    return InputError(
        f"{directory} is damaged ({what}); delete it, then go on from an earlier one or make it again"
    )
