"""Files written whole: one appears under its name when it is complete, and a fault of the disk names it.

Text is UTF-8 whatever the locale. Paths may lie in a bucket. Knows no format.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from collections.abc import Iterator

from etils import epath

from o1jax.records import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
UNNAMED = (*FULL, errno.EIO, errno.EFBIG, errno.EROFS, errno.ESTALE)  # a write has no file's name to give


def write_whole(path: epath.Path, data: bytes | str) -> None:
    """Writes a file, and its directory where there is none. InputError, as of `naming`, where that fails: an
    earlier file of that name is then still whole."""
    if isinstance(data, str):
        data = data.encode("utf-8", "backslashreplace")  # half a surrogate pair, as of a path's odd byte
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
