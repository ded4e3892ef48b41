"""The few kernel calls that a slot needs and Python lacks: prctl, unshare, capset, a bare fork.

Linux only. Says nothing about when they are called (isolation.py and leaf.py do), and holds no
system-call filter (seccomp.py does).
"""

import ctypes
import os
import signal
import time

LIBC = ctypes.PyDLL(None, use_errno=True)
NAMESPACES = {
    "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "mount": 0x00020000
}  # fmt: skip
NEW_USER = 0x10000000
SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, SET_NO_NEW_PRIVS, SET_SUBREAPER = 1, 4, 22, 38, 36


def checked(result, what):
    """A call's result. Raises OSError where it is a failure's."""
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def fork():
    """A fork without Python's at-fork hooks (they touch some 200 pages). Single-threaded callers only:
    `random` is not reseeded and no lock is reset."""
    return checked(LIBC.fork(), "fork")


def prctl(option, value, pointer=None):
    # Ints of 32 bits and pointers: cheap to pass.
    checked(LIBC.prctl(option, value, pointer, None, None), f"prctl {option}")


def die_with_parent(parent=None):
    """SIGKILL for this process when its parent dies, and now if `parent` already has. Not inherited:
    every fork calls it."""
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def unshare(flag):
    checked(LIBC.unshare(flag), "unshare")


def enter_user_namespace():
    """A user namespace in which this user keeps its own numbers. Raises OSError where forbidden."""
    uid, gid = os.getuid(), os.getgid()
    unshare(NEW_USER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def become_user(uid):
    """This process belongs to `uid` alone, a member of no group, from here on. Raises OSError."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def drop_capabilities():
    """Empties the permitted, effective and inheritable sets (no_new_privs keeps them empty)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    checked(LIBC.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def cpu_seconds(pid):
    """CPU time of all threads of a live process, from its clock."""
    return time.clock_gettime((~pid << 3) | 2)
