"""Paths in buckets (gs://, s3://): what they cannot do as a disk does, and what goes in its place.

An object appears whole when its writer closes it, and is never appended to or renamed; a store that is asked
too often says so, and is asked again later. What only a disk can hold is fetched to one first. Reading and
writing themselves are epath's, by fsspec: gcsfs for gs://, s3fs for s3://, which the user installs.
"""

from __future__ import annotations

import atexit
import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import TypeVar

import fsspec
from etils import epath

T = TypeVar("T")
SCHEMES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}  # -> the package that opens it
BUSY = (errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET)  # s3fs's for 429, 503 and so on
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = (
    8,
    0.5,
    30.0,
)  # after the client's own tries
LISTED_WITHIN_S = 60.0  # after which a listing that lacks a new object is not waited for

for _protocol in ("gs", "gcs", "s3", "s3a", "az"):
    # By default a client keeps every listing for ever, and never sees what another process has written.
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)


def scheme(path: epath.PathLike) -> str:
    """ "gs", "s3" and so on; "" of a path on disk."""
    return os.fspath(path).partition("://")[0] if "://" in os.fspath(path) else ""


def is_bucket(path: epath.PathLike) -> bool:
    """Whether the path lies in a bucket that is not mounted."""
    return bool(scheme(path))


def package_missing(path: epath.PathLike) -> str:
    """The package that would open a bucket's path and is not installed, or ""; of a scheme that nothing
    opens, the scheme."""
    try:
        fsspec.get_filesystem_class(scheme(path) or "file")
    except (ImportError, ValueError):
        return SCHEMES.get(scheme(path), scheme(path))
    return ""


def absolute(path: epath.Path) -> epath.Path:
    """The path from the root on. One in a bucket is so already; epath would put the working directory before
    it."""
    return path if is_bucket(path) else path.resolve()


def patiently(work: Callable[[], T]) -> T:
    """What `work` gives. Where the store is busy it is done again, after a wait that doubles, and of which a
    part is random, so that many processes do not come back at once. OSError after TRIES."""
    for tried in range(TRIES):
        try:
            return work()
        except OSError as error:
            if error.errno not in BUSY or tried == TRIES - 1:
                raise
        time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**tried) * random.uniform(0.5, 1))
    raise AssertionError("unreachable")


def create_if_absent(path: epath.Path, data: bytes) -> bool:
    """Whether this call created the file: of several processes that try at once, one does. It appears whole,
    in a directory that is made where there is none."""
    if is_bucket(path):
        # gcsfs: if-generation-match 0; s3fs: If-None-Match *. epath knows no such mode.
        files, key = fsspec.url_to_fs(os.fspath(path))
        try:
            patiently(lambda: files.pipe_file(key, data, mode="create"))
        except FileExistsError:
            return False
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f"{path.name}.{os.getpid()}.{random.getrandbits(32):08x}.part"
    part.write_bytes(data)
    try:
        os.link(part, path)  # atomic on NFS too
    except FileExistsError:
        return False
    except OSError:  # a mounted bucket has no links
        try:
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
    finally:
        part.unlink(missing_ok=True)
    return True


def until_listed(paths: list[epath.Path]) -> None:
    """Returns when listings of their directories show these files of a bucket, or after LISTED_WITHIN_S: with
    some stores a listing is older than what was written last. On a disk, at once."""
    until, wait_s = time.monotonic() + LISTED_WITHIN_S, 0.05
    while paths and is_bucket(paths[0]) and time.monotonic() < until:
        listed = {os.fspath(path) for parent in {path.parent for path in paths} for path in parent.iterdir()}
        paths = [path for path in paths if os.fspath(path) not in listed]
        if paths:
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, 5.0)


def on_disk(path: epath.PathLike, wanted: Callable[[epath.Path], bool] = lambda path: True) -> str:
    """The path of a file or directory, or of a copy on this disk if it lies in a bucket: in the temporary
    directory ($TMPDIR), and gone when the process ends. `wanted` says what below a directory is fetched. A
    path with nothing there is returned as it is."""
    path = epath.Path(path)
    if not is_bucket(path) or not path.exists():
        return os.fspath(path)
    root = tempfile.mkdtemp(prefix="o1jax_bucket_")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    target = epath.Path(root) / path.name
    copy_files(path, target, wanted)
    return os.fspath(target)


def copy_files(
    source: epath.Path, target: epath.Path, wanted: Callable[[epath.Path], bool] = lambda path: True
) -> None:
    """Copies a file, or what is wanted of all below a directory, from a bucket or to one, whose listing then
    shows it."""
    until_listed(_copied(source, target, wanted))


def _copied(source: epath.Path, target: epath.Path, wanted: Callable[[epath.Path], bool]) -> list[epath.Path]:
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        inside = [path for path in source.iterdir() if wanted(path)]
        return [copy for path in inside for copy in _copied(path, target / path.name, wanted)]
    patiently(lambda: source.copy(target, overwrite=True))  # a megabyte at a time
    return [target]
