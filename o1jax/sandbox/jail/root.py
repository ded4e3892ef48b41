"""The slot's own root directory: a read-only tmpfs that holds the standard library and a few system files.

No /proc, no /tmp, no home: what is not bound here does not exist. Needs a mount namespace of its own
and the right to mount in it; whether there is one is isolation.py's concern.
"""

import ctypes
import os
import struct

import kernel

STAGE = "/tmp"  # any directory: it is covered in this namespace only, and left behind
BIND, RECURSIVE, PRIVATE, DETACH = 0x1000, 0x4000, 1 << 18, 2
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
READ_ONLY, NO_SETUID = 1, 2


def pivot(paths):
    """Makes a directory that holds `paths` (those that exist) the root of this mount namespace. Raises
    OSError where the kernel forbids a step; what was mounted by then stays in this namespace."""
    sources = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in outermost(paths)}
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", STAGE, "tmpfs", 0, "size=1m,mode=755")
    for path, source in sources.items():
        opened = f"/proc/self/fd/{source}"  # the path itself may lie under STAGE
        _make_like(opened, STAGE + path)
        _mount(opened, STAGE + path, None, BIND | RECURSIVE)
        os.close(source)
    os.chdir(STAGE)
    kernel.checked(kernel.LIBC.pivot_root(b".", b"."), "pivot_root")
    kernel.checked(kernel.LIBC.umount2(b".", DETACH), "umount")
    os.chdir("/")
    attributes = struct.pack("<QQQQ", READ_ONLY | NO_SETUID, 0, 0, 0)
    where = (AT_FDCWD, b"/", AT_RECURSIVE, attributes, ctypes.c_size_t(32))
    kernel.checked(kernel.LIBC.syscall(ctypes.c_long(MOUNT_SETATTR), *where), "mount_setattr")


def outermost(paths):
    """The paths that exist, without those that lie under another."""
    found = []
    for path in sorted({os.path.normpath(path) + "/" for path in paths if os.path.exists(path)}):
        if not (found and path.startswith(found[-1])):  # what lies under a path follows it
            found.append(path)
    return [path.rstrip("/") for path in found]


def _make_like(path, target):
    """An empty directory or file, as `path` is, to mount on."""
    is_directory = os.path.isdir(path)
    os.makedirs(target if is_directory else os.path.dirname(target), exist_ok=True)
    if not is_directory:
        os.close(os.open(target, os.O_CREAT | os.O_RDONLY, 0o644))


def _mount(source, target, kind, flags, options=None):
    words = [word and word.encode() for word in (source, target, kind)]
    result = kernel.LIBC.mount(*words, ctypes.c_ulong(flags), options and options.encode())
    kernel.checked(result, f"mount on {target}")
