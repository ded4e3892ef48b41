"""Landlock: the slot may read the paths it is given, and write /dev/null.

Everything else on disk (data sets, /proc, the project itself) cannot be opened. Holds no other
restriction: the network and processes are seccomp.py's.
"""

import ctypes
import os
import struct

import kernel

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # the same on x86_64 and aarch64
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1, 2, 4, 8, 1 << 14
LEAST_ABI = 3  # before it, truncation was not refused


def restrict(readable):
    """Binds this process and all it will fork to reading the paths `readable`. Raises OSError where the
    kernel lacks Landlock."""
    abi = _call(CREATE, None, 0, 1)
    if abi < LEAST_ABI:
        raise OSError(95, f"Landlock ABI {abi}")
    handled = (1 << (16 if abi >= 5 else 15)) - 1
    ruleset = _call(CREATE, struct.pack("<Q", handled), 8, 0)
    try:
        for path in readable:
            _allow(ruleset, path, READ_FILE | (READ_DIR | EXECUTE if os.path.isdir(path) else 0))
        _allow(ruleset, "/dev/null", READ_FILE | WRITE_FILE | TRUNCATE)
        _call(RESTRICT, ctypes.c_int(ruleset), 0)
    finally:
        os.close(ruleset)


def _allow(ruleset, path, access):
    if not os.path.exists(path):
        return
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(ADD_RULE, ctypes.c_int(ruleset), 1, struct.pack("<Qi", access, file), 0)
    finally:
        os.close(file)


def _call(number, *arguments):
    return kernel.checked(kernel.LIBC.syscall(ctypes.c_long(number), *arguments), "landlock")
