"""A bucket in this process's memory, opened as s3:// by fsspec and so by epath, with what buckets lack.

An object appears when its writer closes it. There is no appending and no renaming; directories are prefixes
of names. A listing is LATE_S old, and a client that keeps listings sees none of what came later. Every third
write is refused at first, as a store does that is written to too fast.
"""

import errno
import io
import itertools
import time

import fsspec
from fsspec.spec import AbstractFileSystem

LATE_S = 0.3
OBJECTS: dict[str, tuple[bytes, float]] = {}  # name -> (contents, when it was written)
WRITES = itertools.count(1)
REFUSED: list[str] = []  # names of writes that were refused at first


def put(name: str, data: bytes, *, absent: bool = False) -> None:
    if next(WRITES) % 3 == 0:
        REFUSED.append(name)
        raise OSError(errno.EBUSY, "429 Too Many Requests: SlowDown")
    if absent and name in OBJECTS:
        raise FileExistsError(name)
    OBJECTS[name] = (data, time.monotonic())


class Upload(io.BytesIO):
    """What is written is an object when this is closed."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            put(self.name, data)


class Bucket(AbstractFileSystem):
    protocol = ("s3", "s3a")

    def _open(self, path, mode="rb", **_):
        name = self._strip_protocol(path)
        if mode == "wb":
            return Upload(name)
        if mode != "rb":
            raise NotImplementedError(f"a bucket opens no file for {mode!r}")
        if name not in OBJECTS:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        return io.BytesIO(OBJECTS[name][0])

    def pipe_file(self, path, value, mode="overwrite", **_):
        put(self._strip_protocol(path), value, absent=mode == "create")

    def info(self, path, **_):
        name = self._strip_protocol(path)
        if name in OBJECTS:
            return self._entry(name)
        if any(other.startswith(f"{name}/") for other in OBJECTS):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, "no such object", path)

    def _entry(self, name):
        return {"name": name, "size": len(OBJECTS[name][0]), "type": "file"}

    def ls(self, path, detail=True, **_):
        name = self._strip_protocol(path)
        entries = self.dircache[name] if name in self.dircache else self._listing(name)
        self.dircache[name] = entries  # which keeps nothing where use_listings_cache is False
        return entries if detail else [entry["name"] for entry in entries]

    def _listing(self, name):
        self.info(name)  # FileNotFoundError
        seen = [other for other, (_, at) in OBJECTS.items() if time.monotonic() - at >= LATE_S]
        below = [other[len(name) + 1 :] for other in seen if other.startswith(f"{name}/")]
        parts = {f"{name}/{part}": "/" in rest for rest in below for part in [rest.partition("/")[0]]}
        directory = {"size": 0, "type": "directory"}
        return [
            {"name": part, **directory} if deeper else self._entry(part) for part, deeper in parts.items()
        ]

    def mkdir(self, path, create_parents=True, **_):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def rmdir(self, path):
        pass

    def rm_file(self, path):
        if OBJECTS.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)

    def rm(self, path, recursive=False, maxdepth=None):
        name = self._strip_protocol(path)
        if not recursive:
            return self.rm_file(path)
        for other in [other for other in OBJECTS if other == name or other.startswith(f"{name}/")]:
            del OBJECTS[other]

    def mv(self, path1, path2, **_):
        raise NotImplementedError("a bucket renames nothing")

    rename = move = mv

    def cp_file(self, path1, path2, **_):
        raise NotImplementedError("no stage copies an object")


def opened() -> str:
    """The path of an empty bucket."""
    OBJECTS.clear()
    fsspec.register_implementation("s3", Bucket, clobber=True)
    return "s3://bucket"
