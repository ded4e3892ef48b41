"""What honest programs use and the jail's kernel refuses, done without it, in the program's own process.

The standard streams' names, temporary files, semaphores, asyncio's wake-up, large stacks of threads, the
whole depth of recursion, much talk on standard error. Allows nothing: all of it stands on calls that every
program may make, and is the program's to patch.
"""

import _io
import _sitebuiltins
import _thread
import builtins
import importlib.machinery
import io
import os
import resource
import sys
import threading
import types

STREAMS = {
    f"{directory}/{name}": number
    for number, stream in enumerate(("stdin", "stdout", "stderr"))
    for directory, name in (("/dev", stream), ("/dev/fd", number), ("/proc/self/fd", number))
}
ERRORS_TIMES = 64  # as often standard error may say what one file holds; then it is a flood
STACKS_BYTES = 257 << 20  # of threads, beside the program's memory: one of 256 MiB, and its guard
MOST_FRAMES = (1 << 31) - 1  # the limit is an int of C's
RECURSIVE = 0  # the kind of semaphore that its owner may take again


def install():
    """Puts everything in its place, once for all programs, before what is there is frozen."""
    files = Files()
    builtins.open = io.open = files.open
    os.open, os.unlink, os.remove = files.os_open, files.unlink, files.unlink
    threading.stack_size = _thread.stack_size = stack_size
    sys.getrecursionlimit, sys.setrecursionlimit = RECURSION.limit, RECURSION.set_limit
    builtins.help = _sitebuiltins._Helper()
    errors = io.BufferedWriter(Errors(2, "w", closefd=False))
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(errors, "utf-8", "backslashreplace", line_buffering=True)
    sys.stderr.mode = "w"
    sys.modules["_multiprocessing"] = semaphores = types.ModuleType("_multiprocessing")
    semaphores.SemLock, semaphores.sem_unlink = SemLock, len
    sys.meta_path.insert(0, Finder({"asyncio.selector_events": wake_by_pipe, "tempfile": files.take_over}))


class Files:
    """Files by name: those of the standard streams mean a duplicate of the descriptor, those of temporary
    files bytes of this process's. What is put in the place of open() and others are methods of this: as
    attributes of a class they do not bind to its instances, like Python's own."""

    def __init__(self):
        self._plain, self._plain_os, self._plain_unlink = io.open, os.open, os.unlink
        self._temporary = {}  # the contents by name

    # As in Python's own, down to the names of arguments.
    def open(
        self,
        file,
        mode="r",
        buffering=-1,
        encoding=None,
        errors=None,
        newline=None,
        closefd=True,
        opener=None,
    ):
        if type(file) is not int and opener is None:
            name = os.fspath(file)
            if name in self._temporary:
                return opened(self._temporary[name], name, mode, encoding, errors, newline)
            opener = duplicate if name in STREAMS else None
        return self._plain(file, mode, buffering, encoding, errors, newline, closefd, opener)

    def os_open(self, path, flags, mode=0o777, *, dir_fd=None):
        if path in STREAMS:
            return duplicate(path, flags)
        return self._plain_os(path, flags, mode, dir_fd=dir_fd)

    def unlink(self, path, *, dir_fd=None):
        if self._temporary.pop(path, None) is None:
            self._plain_unlink(path, dir_fd=dir_fd)

    def take_over(self, tempfile):
        """Gives module tempfile other functions, with the arguments of its own."""

        def unnamed(
            mode="w+b",
            buffering=-1,
            encoding=None,
            newline=None,
            suffix=None,
            prefix=None,
            dir=None,
            *,
            errors=None,
        ):
            return opened(bytearray(), "", mode, encoding, errors, newline)

        def named(
            mode="w+b",
            buffering=-1,
            encoding=None,
            newline=None,
            suffix=None,
            prefix=None,
            dir=None,
            delete=True,
            *,
            errors=None,
            delete_on_close=True,
        ):
            stem = (prefix or "tmp") + str(len(self._temporary)) + "-" + next(tempfile._get_candidate_names())
            name = os.path.join(dir or "/tmp", stem + (suffix or ""))
            self._temporary[name] = bytearray()
            file = opened(self._temporary[name], name, mode, encoding, errors, newline)
            return tempfile._TemporaryFileWrapper(file, name, delete and delete_on_close)

        tempfile.TemporaryFile, tempfile.NamedTemporaryFile = unnamed, named


def duplicate(path, flags):
    return os.dup(STREAMS[os.fspath(path)])


def opened(data, name, mode, encoding, errors, newline):
    """A file whose content is the bytearray `data`."""
    raw = Stored(data, mode)
    raw.name = name
    if raw.readable() and raw.writable():
        file = io.BufferedRandom(raw)
    else:
        file = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
    return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)


class Stored(io.RawIOBase):
    """A file in this process's memory, and under its limit."""

    def __init__(self, data, mode):
        self._data, self._at, self._mode = data, 0, mode
        if "w" in mode:
            data.clear()

    def readable(self):
        return "r" in self._mode or "+" in self._mode

    def writable(self):
        return self._mode.strip("rbt") != ""

    def seekable(self):
        return True

    def readinto(self, buffer):
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def write(self, data):
        if "a" in self._mode:
            self._at = len(self._data)
        self._data.extend(bytes(max(0, self._at - len(self._data))))
        self._data[self._at : self._at + len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset, whence=0):
        self._at = max(0, (0, self._at, len(self._data))[whence] + offset)
        return self._at

    def truncate(self, size=None):
        size = self._at if size is None else size
        del self._data[size:]
        self._data.extend(bytes(size - len(self._data)))
        return size


class Errors(_io.FileIO):
    """Standard error, of which the last counts: where the file is full, it begins anew."""

    left = ERRORS_TIMES

    def write(self, data):
        if self.left and self.tell() + len(data) > resource.getrlimit(resource.RLIMIT_FSIZE)[0]:
            self.left -= 1
            self.truncate(0)
            self.seek(0)
        return super().write(data)


def stack_size(size=0):
    """threading.stack_size: the address space grows by a stack, as far as leaf.become left room."""
    before = STACK_SIZE(size)
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    if most != resource.RLIM_INFINITY:
        room = min(size + (1 << 20), STACKS_BYTES) if size else 0
        resource.setrlimit(resource.RLIMIT_AS, (most - STACKS_BYTES + room, most))
    return before


STACK_SIZE = _thread.stack_size


class Recursion:
    """The limit of recursion, above the harness's own frames."""

    def __init__(self):
        self._limit, self._set_limit, self._below = sys.getrecursionlimit, sys.setrecursionlimit, 0

    def limit(self):
        return self._limit() - self._below

    def set_limit(self, limit, /):
        if type(limit) is int and 0 < limit <= MOST_FRAMES:
            limit = min(limit + self._below, MOST_FRAMES)
        self._set_limit(limit)  # raises what Python does for another

    def begin_above(self, frame, more):
        """A program runs `more` frames above this one."""
        limit = self.limit()
        while frame is not None:
            frame, more = frame.f_back, more + 1
        self._below = more
        self.set_limit(limit)


RECURSION = Recursion()


class SemLock:
    """A semaphore of multiprocessing, which needs a file in shared memory: here among threads, for there is
    one process only."""

    SEM_VALUE_MAX = (1 << 31) - 1
    handle, name = 0, None

    def __init__(self, kind, value, maxvalue, name, unlink):
        self.kind, self.maxvalue = kind, maxvalue
        self._changed = threading.Condition(threading.Lock())
        self._value, self._owner, self._taken = value, 0, 0

    def acquire(self, block=True, timeout=None):
        own = threading.get_ident()
        with self._changed:
            if not (self.kind == RECURSIVE and self._is_mine()):
                wait_s = None if timeout is None else max(0.0, timeout)
                if not self._changed.wait_for(lambda: self._value > 0, wait_s if block else 0.0):
                    return False
                self._value -= 1
            self._owner, self._taken = own, self._taken + 1
        return True

    def release(self):
        with self._changed:
            if self.kind == RECURSIVE and not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self.kind != RECURSIVE and self._value >= self.maxvalue:
                raise ValueError("semaphore or lock released too many times")
            self._taken -= 1
            if self.kind != RECURSIVE or self._taken == 0:
                self._value += 1
                self._changed.notify()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *raised):
        self.release()

    def _is_mine(self):
        return self._taken > 0 and self._owner == threading.get_ident()

    def _count(self):
        return self._taken

    def _get_value(self):
        return self._value

    def _is_zero(self):
        return self._value == 0

    def _after_fork(self):
        pass


class Finder:
    """Imports some modules of the standard library, and then changes them: {name: what to do}."""

    def __init__(self, changes):
        self._changes = changes

    def find_spec(self, name, path, target=None):
        if name not in self._changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        spec.loader = Loader(spec.loader.name, spec.loader.path)
        spec.loader.change = self._changes[name]
        return spec


class Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        super().exec_module(module)
        self.change(module)


def wake_by_pipe(selector_events):
    selector_events.BaseSelectorEventLoop._make_self_pipe = make_self_pipe


def make_self_pipe(loop):
    """In the place of asyncio's own method, which makes a pair of sockets."""
    loop._ssock, loop._csock = (End(file) for file in os.pipe())
    loop._internal_fds += 1
    loop._add_reader(loop._ssock.fileno(), loop._read_from_self)


class End:
    """An end of a pipe, with those of a socket's methods that asyncio uses."""

    def __init__(self, file):
        os.set_blocking(file, False)
        self._file = file

    def fileno(self):
        return self._file

    def recv(self, most):
        return os.read(self._file, most)

    def send(self, data):
        return os.write(self._file, data)

    def close(self):
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
