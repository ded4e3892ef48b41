"""Two system-call filters: one for the whole slot, a smaller one added to every execution.

The slot's filter refuses the network, files opened for writing or changed, other processes'
memory, exec, namespaces, mounts and the kernel's programmable interfaces. The execution's filter
refuses new processes (threads are fine), signals to others, SIGKILL to itself, and undoing the
harness. They are lists of what is refused; reading files is not refused.
"""

import ctypes
import errno
import functools
import os
import struct

import kernel

# name: (x86_64, aarch64); None where the machine has no such call
DENIED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206),
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "creat": (85, None),
    "link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35),
    "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55), "lchown": (94, None),
    "fchownat": (260, 54), "mknod": (133, None), "mknodat": (259, 33), "utime": (132, None),
    "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "personality": (135, 92), "chroot": (161, 51), "pivot_root": (155, 41), "mount": (165, 40),
    "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "quotactl": (179, 60),
    "sethostname": (170, 161), "reboot": (169, 142), "swapon": (167, 224), "init_module": (175, 105),
    "finit_module": (313, 273), "kexec_load": (246, 104), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "open_by_handle_at": (304, 265), "io_setup": (206, 0),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "openat2": (437, 437),
    "pidfd_getfd": (438, 438), "mount_setattr": (442, 442), "memfd_secret": (447, 447),
}  # fmt: skip
DENIED_TO_EXECUTION = {
    "fork": (57, None), "vfork": (58, None), "memfd_create": (319, 279), "pidfd_open": (434, 434),
    "sendmsg": (46, 211), "recvmsg": (47, 212), "timer_create": (222, 107), "setsid": (112, 157),
    "setpgid": (109, 154), "sched_setaffinity": (203, 122), "seccomp": (317, 277),
}  # fmt: skip
OPEN, OPENAT, CLONE, CLONE3 = (2, None), (257, 56), (56, 220), (435, 435)
KILL, TKILL, TGKILL, PRCTL = (62, 129), (200, 130), (234, 131), (157, 167)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE_THREAD = 0x10000
SELF = 0x5E1F5E1F  # stands for a process number, and is none
ALLOW, ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06


def _op(code, value, if_true=0, if_false=0):
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument(index):
    return _op(LOAD, 16 + 8 * index)  # the low word: both machines are little-endian


def _refuse(number=errno.EPERM):
    return _op(RETURN, ERRNO | number)


def _when(call, body, machine):
    """Runs `body` (which must return) for one system call; nothing where the machine has no such call."""
    if call[machine] is None:
        return b""
    return _op(EQUAL, call[machine], 0, len(body) // 8) + body


def _unless(index, value, otherwise):
    """Refuses unless argument `index` equals `value`, then goes on with `otherwise`."""
    return _argument(index) + _op(EQUAL, value, 1, 0) + _refuse() + otherwise


def _if_bits(index, bits, then, otherwise):
    return _argument(index) + _op(ANY_BIT, bits, 0, len(then) // 8) + then + otherwise


def _if_equal(index, value, then, otherwise):
    return _argument(index) + _op(EQUAL, value, 0, len(then) // 8) + then + otherwise


def _start(machine, architecture):
    program = _op(LOAD, 4) + _op(EQUAL, architecture, 1, 0) + _op(RETURN, KILL_PROCESS) + _op(LOAD, 0)
    if machine == 0:  # the x32 numbers would go round the list
        program += _op(AT_LEAST, 0x40000000, 0, 1) + _refuse()
    return program


def slot_filter(refuse_writing):
    """The filter that a slot and everything in it lives under. `refuse_writing`: no file is opened for
    writing, /dev/null included (Landlock, where there is one, draws that line better)."""
    machine, architecture = ARCHITECTURES[os.uname().machine]
    allow = _op(RETURN, ALLOW)
    program = _start(machine, architecture)
    if refuse_writing:
        program += _when(OPENAT, _if_bits(2, WRITING, _refuse(errno.EACCES), allow), machine)
        program += _when(OPEN, _if_bits(1, WRITING, _refuse(errno.EACCES), allow), machine)
    for call in DENIED.values():
        program += _when(call, _refuse(), machine)
    return program + allow


def execution_filter(pid):
    """The filter that process `pid` adds to itself before candidate code runs."""
    return _execution_template().replace(struct.pack("<I", SELF), struct.pack("<I", pid))


@functools.cache
def _execution_template():
    """The filter with SELF in the place of the process's number: built once, before the forks."""
    machine, architecture = ARCHITECTURES[os.uname().machine]
    allow, refuse = _op(RETURN, ALLOW), _refuse()
    program = _start(machine, architecture)
    program += _when(CLONE, _if_bits(0, CLONE_THREAD, allow, refuse), machine)
    program += _when(CLONE3, _refuse(errno.ENOSYS), machine)  # glibc falls back to clone
    program += _when(KILL, _unless(0, SELF, _if_equal(1, 9, refuse, allow)), machine)
    program += _when(TGKILL, _unless(0, SELF, _if_equal(2, 9, refuse, allow)), machine)
    program += _when(TKILL, refuse, machine)
    program += _when(PRCTL, _if_equal(0, kernel.SET_PDEATHSIG, refuse, allow), machine)
    for call in DENIED_TO_EXECUTION.values():
        program += _when(call, refuse, machine)
    return program + allow


def install(program):
    """Adds a filter to this thread (no_new_privs must be set). Raises OSError where seccomp is missing."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    kernel.prctl(kernel.SET_SECCOMP, 2, ctypes.c_char_p(header))
