"""The few kernel calls that a slot needs and Python lacks: prctl, unshare, capset, a bare fork, sealed files.

Linux only. Says nothing about when they are called (isolation.py and leaf.py do), and holds no
system-call filter (seccomp.py does).
"""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import time

LIBC = ctypes.PyDLL(None, use_errno=True)
# Every fork calls these: what looking them up and keeping errno touch is copied each time.
PRCTL, FORK = (ctypes.PyDLL(None)[name] for name in ("prctl", "fork"))
NAMESPACES = {
    "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "mount": 0x00020000
}  # fmt: skip
NEW_USER = 0x10000000
KILL = int(signal.SIGKILL)  # a member of an enum is dearer to pass
READ_ONLY = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
CHUNK = 1 << 16  # of a file that is copied: no more of it is in this process's memory
SET_PDEATHSIG, SET_DUMPABLE, SET_KEEPCAPS, SET_SECCOMP, SET_NO_NEW_PRIVS, SET_SUBREAPER = 1, 4, 8, 22, 38, 36
CAP_SETUID = 1 << 7


def checked(result, what):
    """A call's result. Raises OSError where it is a failure's."""
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def fork():
    """A fork without Python's at-fork hooks (they touch some 200 pages). Single-threaded callers only:
    `random` is not reseeded and no lock is reset."""
    pid = FORK()
    if pid < 0:
        raise OSError(errno.EAGAIN, "fork: too many processes, or too little memory")
    return pid


def prctl(option, value, pointer=None):
    # Ints of 32 bits and pointers: cheap to pass.
    if PRCTL(option, value, pointer, None, None) < 0:  # once more, for its reason
        checked(LIBC.prctl(option, value, pointer, None, None), f"prctl {option}")


def die_with_parent(parent=None):
    """SIGKILL for this process when its parent dies, and now if `parent` already has. Not inherited:
    every fork calls it."""
    prctl(SET_PDEATHSIG, KILL)
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


def become_user_but_for_files(uid):
    """The threads, signals and limits of this process are those of `uid`, the files that it may open still
    this user's. Raises OSError."""
    own = os.geteuid()
    prctl(SET_KEEPCAPS, 1)  # for another user's files are a privilege
    os.setresuid(uid, uid, uid)
    set_capabilities(CAP_SETUID)
    LIBC.setfsuid(own)
    if LIBC.setfsuid(own) != own:  # it returns what was, and nothing else
        raise OSError(errno.EPERM, "setfsuid")


def drop_capabilities():
    """Empties the permitted, effective and inheritable sets (no_new_privs keeps them empty)."""
    set_capabilities(0)


def set_capabilities(held):
    """`held`, a set of the first 32, are permitted and effective, none is inheritable."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    checked(LIBC.capset(header, (ctypes.c_uint32 * 6)(held, held)), "capset")


def cpu_seconds(pid):
    """CPU time of all threads of a live process, from its clock."""
    return time.clock_gettime((~pid << 3) | 2)


def killed_by_own_limit(pid, cpu_s):
    """Whether a process that has ended, and is not reaped, had made its limit of CPU time, which was above
    `cpu_s`, a lower one and died of SIGKILL: so the kernel ends what reaches that limit."""
    died = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if died.si_code != os.CLD_KILLED or died.si_status != signal.SIGKILL:
        return False
    hard = resource.prlimit(pid, resource.RLIMIT_CPU)[1]
    return hard != resource.RLIM_INFINITY and hard <= cpu_s


def memory_file(name):
    """A file in memory that nobody can seal: hosts with vm.memfd_noexec make every new one sealable."""
    file = os.memfd_create(name, os.MFD_CLOEXEC)
    seal(file, fcntl.F_SEAL_SEAL)
    return file


def unsealed_file(name):
    """A file in memory, for `fill`."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def fill(file, source, at, size):
    """Makes the content of a file `size` bytes of the file `source`, from `at` on, once for all. It
    looks like a file as standard input, at its beginning."""
    copy(source, at, size, file)
    os.lseek(file, 0, os.SEEK_SET)
    seal(file, READ_ONLY)


def seal(file, kinds):
    """Seals a file in memory, where it is not sealed against that already."""
    if not fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SEAL:
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, kinds)


def size(file):
    """Bytes of a file. Its offset is not kept."""
    return os.lseek(file, 0, os.SEEK_END)  # fstat makes ten times as many objects


def write_all(file, data):
    while data:
        data = data[os.write(file, data) :]


def copy(source, at, size, target):
    """Writes `size` bytes of the file `source`, from `at` on, to `target`."""
    while size > 0 and (data := os.pread(source, min(CHUNK, size), at)):
        write_all(target, data)
        at, size = at + len(data), size - len(data)
