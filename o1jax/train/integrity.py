"""Checksums of a directory's files, made after it counts already, by each process of the files it wrote.

Checked, where they are there, before a checkpoint is read: the reading libraries answer a short or missing
file with screens of traces. Every byte is read for them, which for large models takes minutes: they are made
in a thread, which may be told to stop. Knows nothing of checkpoints but where a process's files lie.
"""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from o1jax.parallel.processes import this_process
from o1jax.records import InputError
from o1jax.writing import write_whole

RECORD = "files.json"  # process 0's; that of process 3 has .3 behind it
OF_PROCESS = re.compile(r"(?:^|/)ocdbt\.process_(\d+)/")  # where Orbax keeps what one process wrote
READ_AT_ONCE = 1 << 24  # bytes
READERS = 8  # files at once
GOES_ON = threading.Event()  # never set


class Stopped(Exception):
    """Sealing was told to stop: the directory stays without checksums."""


def seal(directory: epath.Path, stop: threading.Event = GOES_ON) -> None:
    """Writes the record of the files below `directory` that this process wrote: their sizes and CRC-32.
    What no process's directory holds is process 0's. Raises Stopped soon after `stop` is set."""
    index = this_process().index
    files = {name: path for name, path in files_of(directory).items() if _writer(name) == index}
    record = dict(zip(files, described(files.values(), stop), strict=True))
    name = f"{RECORD}.{index}" if index else RECORD
    write_whole(directory / name, json.dumps(record, indent=1, sort_keys=True))


def _writer(name: str) -> int:
    within = OF_PROCESS.search(name)
    return int(within[1]) if within else 0


def check_sealed(directory: epath.Path) -> None:
    """InputError naming the first file that is missing or is not as it was recorded; of files without a
    record nothing is said. Every process looks at all sizes and reads its share of the files."""
    recorded: dict[str, list[int | None]] = {}
    for record in directory.iterdir():
        if record.name == RECORD or record.name.startswith(RECORD) and record.suffix[1:].isdigit():
            try:
                recorded |= json.loads(record.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise damaged(directory, f"{record.name}: {error}") from error
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
    """Every file below, by its relative name; without the records."""
    files: dict[str, epath.Path] = {}
    for path in directory.iterdir():
        if path.is_dir():
            files |= files_of(path, f"{prefix}{path.name}/")
        elif not path.name.startswith(RECORD):
            files[prefix + path.name] = path
    return files


def described(paths: Iterable[epath.Path], stop: threading.Event = GOES_ON) -> list[list[int]]:
    """[size in bytes, CRC-32] of each file, several read at once. Raises Stopped."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda path: describe(path, stop), paths))


def describe(path: epath.Path, stop: threading.Event = GOES_ON) -> list[int]:
    """[size in bytes, CRC-32], of which READ_AT_ONCE bytes are held at a time. Raises Stopped."""
    size = crc = 0
    with path.open("rb") as file:
        while part := file.read(READ_AT_ONCE):
            if stop.is_set():
                raise Stopped
            size, crc = size + len(part), zlib.crc32(part, crc)
    return [size, crc]


def damaged(directory: epath.Path, what: str) -> InputError:
    """The error for a directory that is not what was written."""
    return InputError(
        f"{directory} is damaged ({what}); delete it, then go on from an earlier one or make it again"
    )
