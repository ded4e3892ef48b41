"""The system calls that a slot may make, by name: (x86_64, aarch64) numbers, None where there is none.

A list of what is allowed: what the interpreter, its threads and the reading of files need. What is not
here (the network, exec, files changed, other processes, the kernel's programmable interfaces) is refused
by seccomp.py, which also holds the rules of the calls that are allowed in part.
"""

ALLOWED = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "preadv2": (327, 286),
    "pwritev2": (328, 287), "lseek": (8, 62), "open": (2, None), "openat": (257, 56), "close": (3, 57),
    "close_range": (436, 436), "fstat": (5, 80), "stat": (4, None), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "getdents": (78, None),
    "getdents64": (217, 61), "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46),
    "fadvise64": (221, 223), "umask": (95, 166), "pipe": (22, None), "pipe2": (293, 59),
    "eventfd": (284, None), "eventfd2": (290, 19), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22), "mmap": (9, 222),
    "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "brk": (12, 214), "madvise": (28, 233),
    "msync": (26, 227), "mincore": (27, 232), "membarrier": (324, 283), "exit": (60, 93),
    "exit_group": (231, 94), "wait4": (61, 260), "waitid": (247, 95), "set_tid_address": (218, 96),
    "set_robust_list": (273, 99), "rseq": (334, 293), "futex": (202, 98), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getpriority": (140, 141),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    "getrusage": (98, 165), "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, None),
    "pause": (34, None), "restart_syscall": (219, 128), "getpid": (39, 172), "gettid": (186, 178),
    "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "capget": (125, 90),
    "getrlimit": (97, 163), "setrlimit": (160, 164), "sysinfo": (99, 179), "uname": (63, 160),
    "getcpu": (309, 168), "getrandom": (318, 278), "arch_prctl": (158, None), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
}  # fmt: skip

# Refused to an execution: the warm parent and the programs' processes need them.
HARNESS_ONLY = {
    "fork": (57, None), "memfd_create": (319, 279), "pidfd_open": (434, 434), "recvmsg": (47, 212),
    "setsid": (112, 157),
}  # fmt: skip

# Allowed in part: seccomp.py says which.
LIMITED = {
    "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167),
    "prlimit64": (302, 261), "ioctl": (16, 29), "fcntl": (72, 25),
}  # fmt: skip
