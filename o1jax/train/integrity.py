"""A directory's record of its own files, written last: the mark that it is complete and undamaged.

Checked before a checkpoint is read, because the reading libraries answer a short or missing file
with screens of traces. Knows nothing of checkpoints.
"""

from __future__ import annotations

import json
import zlib

from etils import epath

from o1jax.records import InputError

RECORD = "files.json"
READ_AT_MOST = 1 << 28  # larger files are judged by size alone: reading them twice would take minutes


def seal(directory: epath.Path) -> None:
    """Writes the record of every file below `directory`: its size, and CRC-32 unless it is large."""
    found = {name: describe(path) for name, path in files_of(directory).items()}
    partial = directory / f"{RECORD}.partial"
    partial.write_text(json.dumps(found, indent=1, sort_keys=True))
    partial.replace(directory / RECORD)


def is_sealed(directory: epath.Path) -> bool:
    """Whether the record is there."""
    return (directory / RECORD).exists()


def check_sealed(directory: epath.Path) -> None:
    """InputError naming the first file that is missing or is not as it was written."""
    try:
        recorded = json.loads((directory / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise damaged(directory, f"{RECORD}: {error}") from error
    found = files_of(directory)
    for name, (size, crc) in recorded.items():
        if name not in found:
            raise damaged(directory, f"{name} is missing")
        now = describe(found[name])
        if now != [size, crc]:
            raise damaged(directory, f"{name} has {now[0]} bytes, CRC {now[1]}; written were {size}, {crc}")


def files_of(directory: epath.Path, prefix: str = "") -> dict[str, epath.Path]:
    """Every file below, by its relative name; without the record itself."""
    found: dict[str, epath.Path] = {}
    for path in directory.iterdir():
        if path.is_dir():
            found |= files_of(path, f"{prefix}{path.name}/")
        elif not path.name.startswith(RECORD):
            found[prefix + path.name] = path
    return found


def describe(path: epath.Path) -> list[int | None]:
    """[size in bytes, CRC-32 or None if the file is large]."""
    size = path.stat().length
    return [size, zlib.crc32(path.read_bytes()) if size <= READ_AT_MOST else None]


def damaged(directory: epath.Path, what: str) -> InputError:
    """The error for a directory that is not what was written."""
    return InputError(
        f"{directory} is damaged ({what}); delete it, then go on from an earlier one or make it again"
    )
