"""Files written whole: one appears under its name when it is complete, and a fault of the disk names it.

Text is UTF-8 whatever the locale. Paths may lie in a bucket, where a file that grows is one of parts. Knows
no format.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

from etils import epath

from o1jax.buckets import is_bucket, patiently
from o1jax.records import InputError

PART_EVERY_S = 60.0
FULL = (errno.ENOSPC, errno.EDQUOT)
UNNAMED = (*FULL, errno.EIO, errno.EFBIG, errno.EROFS, errno.ESTALE)  # a write has no file's name to give


def write_whole(path: epath.Path, data: bytes | str) -> None:
    """Writes a file, and its directory where there is none. InputError, as of `naming`, where that fails: an
    earlier file of that name is then still whole."""
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")  # half a surrogate pair, as of a path's odd byte
    if is_bucket(path):  # an object appears when it is complete
        patiently(lambda: path.write_bytes(data))
        return
    # Which no reader takes for a file. Two processes may write the same file, each in a part of its own.
    part = path.parent / f"{path.name}.{secrets.token_hex(4)}.part"
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


class GrowingFile:
    """Text that is appended to a file. On a disk it is in the operating system's hands when `write` returns.
    In a bucket it is a part of its own, <name>.000001 and so on, after PART_EVERY_S, at `flush` and at
    `close`, which joins the parts; read_growing reads both. Threads may share it."""

    def __init__(self, path: epath.Path):
        self.path, self._pending, self._flushed_at = path, "", time.monotonic()
        self._file: TextIO | None = None
        self._lock = threading.Lock()
        with naming(path):
            if not is_bucket(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("a", encoding="utf-8")
        self._parts = parts_of(path)  # what an earlier process left, and then this one's

    def write(self, text: str) -> None:
        with self._lock, naming(self.path):
            if self._file is not None:
                self._file.write(text)
                self._file.flush()
                return
            self._pending += text
        if time.monotonic() - self._flushed_at >= PART_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending."""
        with self._lock:
            self._flushed_at = time.monotonic()
            if self._pending:
                number = int(self._parts[-1].suffix[1:]) + 1 if self._parts else 1
                part = self.path.parent / f"{self.path.name}.{number:06d}"
                write_whole(part, self._pending)
                self._parts.append(part)
                self._pending = ""

    def close(self) -> None:
        """Writes what is pending; in a bucket it is then one file."""
        self.flush()
        if self._file is not None:
            self._file.close()
        elif self._parts:  # by their names: a listing may lack the last ones yet
            rewrite_growing(self.path, _joined(self.path, self._parts), self._parts)


def parts_of(path: epath.Path) -> list[epath.Path]:
    """The parts of a GrowingFile in a bucket, in order; none on a disk."""
    if not is_bucket(path) or not path.parent.exists():
        return []
    beside = (other for other in path.parent.iterdir() if other.name.startswith(f"{path.name}."))
    return sorted(other for other in beside if other.suffix[1:].isdigit())


def read_growing(path: epath.Path) -> str:
    """The text of a GrowingFile, also of one that is open yet; "" of none."""
    return _joined(path, parts_of(path))


def _joined(path: epath.Path, parts: Sequence[epath.Path]) -> str:
    files = [*([path] if path.exists() else []), *parts]
    return "".join(file.read_text(encoding="utf-8") for file in files)


def rewrite_growing(path: epath.Path, text: str, parts: Sequence[epath.Path] = ()) -> None:
    """Puts a file with this text in the place of a GrowingFile that is not open. `parts`: those that may not
    be listed yet."""
    parts = {*parts, *parts_of(path)}
    write_whole(path, text)
    for part in parts:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: epath.PathLike) -> Iterator[None]:
    """Within it, what the disk refuses to write (it is full, read-only or broken) is an InputError that names
    the file, or else `path`. Other OSErrors name their file themselves, and are raised as they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNNAMED:
            raise
        at = error.filename or path
        if error.errno in FULL:
            fix = "the disk is full; free some space and run again (what was written before is kept)"
        else:
            fix = f"cannot be written ({error.strerror}); give another directory, or mend the disk"
        raise InputError(f"{at}: {fix}") from error
