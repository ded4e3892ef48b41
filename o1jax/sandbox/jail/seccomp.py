"""Two system-call filters: an allow-list for the whole slot, a smaller one added to every execution.

The slot's filter lets through what syscalls.py lists and refuses all else. The execution's filter takes
away new processes (threads are fine), signals to others, SIGKILL to itself, and undoing the harness.
Both are search trees over the call's number, for the kernel runs a new filter once on every number.
"""

import ctypes
import errno
import functools
import os
import struct

import kernel
from syscalls import ALLOWED, HARNESS_ONLY, LIMITED

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
SELF = 0x5E1F5E1F  # stands for a process number, and is none
NEWER = 435  # from here on a C library tries a call first and does without: "no such call" is its cue
CLONE_THREAD = 0x10000
CLONE_APART = 0x7E02A000  # new namespaces, a tracer's child, a sibling
TERMINAL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it one, its size, bytes to read
# Duplicates, flags, locks, seals: not F_SETOWN and F_SETSIG, which send signals to anybody.
FILE_COMMANDS = (*range(8), 1030, 1033, 1034)
SET_NAME, GET_NAME = 15, 16
LOAD, EQUAL, ANY_BIT, AT_LEAST, JUMP, RETURN = 0x20, 0x15, 0x45, 0x35, 0x05, 0x06


def _op(code, value, if_true=0, if_false=0):
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _refuse(number=errno.EPERM):
    return _op(RETURN, 0x00050000 | number)


ALLOW, REFUSE, KILL = _op(RETURN, 0x7FFF0000), _refuse(), _op(RETURN, 0x80000000)


def _if_any(index, code, operands, then, otherwise):
    """`then` where argument `index` meets one of the operands, else `otherwise`; both must return."""
    program = _op(LOAD, 16 + 8 * index)  # the low word: both machines are little-endian
    for left, operand in zip(range(len(operands) - 1, -1, -1), operands, strict=True):
        program += _op(code, operand, left, len(then) // 8 * (not left))
    return program + then + otherwise


def _search(segments):
    """Jumps to the body of the segment that the call's number lies in; `segments` are (start, body)."""
    if len(segments) == 1:
        return segments[0][1]
    middle = len(segments) // 2
    left, right = _search(segments[:middle]), _search(segments[middle:])
    far = len(left) // 8
    if far < 256:  # a conditional jump reaches no further
        return _op(AT_LEAST, segments[middle][0], far, 0) + left + right
    return _op(AT_LEAST, segments[middle][0], 0, 1) + _op(JUMP, far) + left + right


def _filter(rules, otherwise, from_newer):
    """The program of {call's number: body}; `otherwise` and, from NEWER on, `from_newer` are the rest's."""
    segments = [(0, None)]
    for number in sorted({0, NEWER, *rules, *(number + 1 for number in rules)}):
        body = rules.get(number, from_newer if number >= NEWER else otherwise)
        if body != segments[-1][1]:
            segments.append((number, body))
    return _search(segments[1:])


def _rules(table, body):
    machine = ARCHITECTURES[os.uname().machine][0]
    return {numbers[machine]: body for numbers in table.values() if numbers[machine] is not None}


def _limited(bodies):
    machine = ARCHITECTURES[os.uname().machine][0]
    return {LIMITED[name][machine]: body for name, body in bodies.items()}


def slot_filter():
    """The filter that a slot and everything in it lives under."""
    architecture = ARCHITECTURES[os.uname().machine][1]
    rules = {**_rules(ALLOWED, ALLOW), **_rules(HARNESS_ONLY, ALLOW)}
    rules |= _limited(
        {
            "kill": ALLOW,
            "tgkill": ALLOW,
            "prctl": ALLOW,
            "clone": _if_any(0, ANY_BIT, [CLONE_APART], REFUSE, ALLOW),
            "prlimit64": ALLOW,
            "ioctl": _if_any(1, EQUAL, TERMINAL_REQUESTS, ALLOW, REFUSE),
            "fcntl": _if_any(1, EQUAL, FILE_COMMANDS, ALLOW, REFUSE),
        }
    )
    known = _op(LOAD, 4) + _op(EQUAL, architecture, 1, 0) + KILL + _op(LOAD, 0)
    return known + _filter(rules, REFUSE, _refuse(errno.ENOSYS))


def execution_filter(pid):
    """The filter that process `pid` adds to itself before candidate code runs."""
    return _execution_template().replace(struct.pack("<I", SELF), struct.pack("<I", pid))


def install_execution_filter(pid):
    """Installs execution_filter(pid), from a buffer in which only the number is missing."""
    code, header, places = _prepared_execution()
    for place in places:
        struct.pack_into("<I", code, place, pid)
    kernel.prctl(kernel.SET_SECCOMP, 2, header)


@functools.cache
def _prepared_execution():
    template, number = _execution_template(), struct.pack("<I", SELF)
    places = tuple(at for at in range(0, len(template), 4) if template.startswith(number, at))
    return *_buffer(template), places


@functools.cache
def _execution_template():
    """The filter with SELF in the place of the process's number."""
    to_itself = _if_any(0, EQUAL, [SELF], _if_any(1, EQUAL, [9], REFUSE, ALLOW), REFUSE)
    to_thread = _if_any(0, EQUAL, [SELF], _if_any(2, EQUAL, [9], REFUSE, ALLOW), REFUSE)
    rules = _rules(HARNESS_ONLY, REFUSE) | _limited(
        {
            "clone": _if_any(0, ANY_BIT, [CLONE_THREAD], ALLOW, REFUSE),
            "kill": to_itself,
            "tgkill": to_thread,
            "prctl": _if_any(0, EQUAL, [SET_NAME, GET_NAME], ALLOW, REFUSE),
            "prlimit64": _if_any(0, EQUAL, [0], ALLOW, REFUSE),
        }
    )
    return _op(LOAD, 0) + _filter(rules, ALLOW, ALLOW)


def install(program):
    """Adds a filter to this thread (no_new_privs must be set). Raises OSError where seccomp is missing."""
    code, header = _buffer(program)
    kernel.prctl(kernel.SET_SECCOMP, 2, header)
    del code  # not before the call: the header refers to it


def _buffer(program):
    """(the program where the kernel can read it, its header, which refers to it)."""
    code = ctypes.create_string_buffer(program, len(program))
    return code, ctypes.c_char_p(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))


def warm_up():
    """Builds what every execution needs, before the forks."""
    if os.uname().machine in ARCHITECTURES:
        _prepared_execution()
