"""The system-call filters, run on a small machine of their own: both architectures, without a kernel."""

import errno
import os
import pathlib
import re
import struct
import sys
import types

import pytest

from o1jax.sandbox import jail

JAIL = pathlib.Path(jail.__file__).parent
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.fixture(params=ARCHITECTURE)
def seccomp(request, monkeypatch):
    """The module as the jail loads it, on each architecture."""
    monkeypatch.syspath_prepend(str(JAIL))
    uname = types.SimpleNamespace(machine=request.param)
    monkeypatch.setattr(os, "uname", lambda: uname)
    for name in ("kernel", "syscalls", "seccomp"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import seccomp as module

    yield module
    for name in ("kernel", "syscalls", "seccomp"):
        sys.modules.pop(name, None)


def outcome(program: bytes, number: int, *arguments: int, architecture: int) -> int:
    """What the filter returns for a call: classic BPF, as far as these programs go."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<II8x6Q", number, architecture, *padded)
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return value
        elif code == 0x05:
            at += value
        else:
            held = {0x15: accumulator == value, 0x45: accumulator & value, 0x35: accumulator >= value}[code]
            at += if_true if held else if_false


def asked(seccomp, program, name, *arguments):
    tables = {**seccomp.ALLOWED, **seccomp.HARNESS_ONLY, **seccomp.LIMITED}
    machine, architecture = seccomp.ARCHITECTURES[os.uname().machine]
    number = tables[name][machine] if isinstance(name, str) else name
    return outcome(program, number, *arguments, architecture=architecture)


def test_the_slot_may_call_what_is_listed_and_nothing_else(seccomp):
    program = seccomp.slot_filter()
    machine = seccomp.ARCHITECTURES[os.uname().machine][0]
    listed = {
        numbers[machine] for table in (seccomp.ALLOWED, seccomp.HARNESS_ONLY) for numbers in table.values()
    }
    partly = {numbers[machine] for numbers in seccomp.LIMITED.values()}
    for number in set(range(600)) - partly:
        want = ALLOW if number in listed else EPERM if number < 435 else ENOSYS
        assert asked(seccomp, program, number) == want, number
    assert asked(seccomp, program, 0x40000000) == ENOSYS  # the x32 numbers


def test_another_architecture_is_killed(seccomp):
    program = seccomp.slot_filter()
    assert outcome(program, 0, architecture=0x40000003) == KILL


@pytest.mark.parametrize(
    ("call", "arguments", "want"),
    [
        ("clone", [0x01200011], ALLOW),  # a fork
        ("clone", [0x10000011], EPERM),  # a user namespace
        ("clone", [0x00008011], EPERM),  # a sibling
        ("clone3", [], ENOSYS),
        ("prlimit64", [0], ALLOW),
        ("ioctl", [0, 0x5401], ALLOW),
        ("ioctl", [0, 0x5412], EPERM),  # typing into a terminal
        ("fcntl", [0, 1030], ALLOW),
        ("fcntl", [0, 8], EPERM),  # F_SETOWN
        ("fcntl", [0, 10], EPERM),  # F_SETSIG
        ("fcntl", [0, 1031], EPERM),
        ("kill", [5, 9], ALLOW),
    ],
)
def test_what_a_slot_may_call_in_part(seccomp, call, arguments, want):
    assert asked(seccomp, seccomp.slot_filter(), call, *arguments) == want


@pytest.mark.parametrize(
    ("call", "arguments", "want"),
    [
        ("read", [0], ALLOW),
        ("memfd_create", [], EPERM),
        ("clone", [0x01200011], EPERM),
        ("clone", [0x003D0F00], ALLOW),  # a thread
        ("kill", [77, 15], ALLOW),
        ("kill", [77, 9], EPERM),
        ("kill", [78, 15], EPERM),
        ("kill", [0xFFFFFFFF, 15], EPERM),
        ("tgkill", [77, 78, 6], ALLOW),
        ("tgkill", [77, 78, 9], EPERM),
        ("tgkill", [1, 1, 6], EPERM),
        ("prctl", [15], ALLOW),
        ("prctl", [1], EPERM),  # PR_SET_PDEATHSIG
        ("prctl", [22], EPERM),  # PR_SET_SECCOMP
        ("prlimit64", [0], ALLOW),
        ("prlimit64", [1], EPERM),  # another's
        ("prlimit64", [77], EPERM),
    ],
)
def test_what_an_execution_may_call(seccomp, call, arguments, want):
    assert asked(seccomp, seccomp.execution_filter(77), call, *arguments) == want


def test_the_numbers_are_the_kernels(seccomp):
    header = pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if os.uname().machine == "aarch64" or not header.exists():
        pytest.skip("no kernel headers of this architecture")
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    for table in (seccomp.ALLOWED, seccomp.HARNESS_ONLY, seccomp.LIMITED):
        assert {
            name: int(numbers[name]) for name in table if name in numbers and table[name][0] is not None
        } == {name: pair[0] for name, pair in table.items() if name in numbers and pair[0] is not None}
