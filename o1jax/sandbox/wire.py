"""What crosses to the child and back: the job without its expected outputs, and the records.

Says nothing of what a record is worth (verdicts.py). The other end is jail/program.py.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import marshal
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

from o1jax.records import Form, InputError, TestCase
from o1jax.sandbox import assertions, graders, setups
from o1jax.sandbox.interface import LEAST_MB, LEAST_S, Job, Limits
from o1jax.sandbox.jail import values
from o1jax.sandbox.literals import parsed

RECORD, LENGTH = struct.Struct("<ciiidII"), struct.Struct("<Q")  # as in jail/program.py
WALL, OUTPUT, OWN, CPU = 1, 2, 3, 4  # as in jail/program.py
# What one program may say beyond what its tests expect, whatever their number (or, where that is more, as
# much as one output may be).
MOST_BYTES = 16 << 20
WINDOW = 1 << 16  # bytes of records that are read at once
LEAST_OUTPUT = 64  # bytes: a small value with what is around it
LONGEST_CHARACTER = 12  # bytes of JSON that one becomes


class Incomplete(RuntimeError):
    """The records end too early or make no sense: an infrastructure failure."""


class Record(NamedTuple):
    """One record of a program's process."""

    # B began, C compiled, E did not compile; A the answer to a test, T how an execution ended, at a test;
    # S from this test on none is run
    kind: bytes
    first: int  # the test
    status: int  # the execution's wait status
    over: int  # WALL, OUTPUT, OWN (a time limit that it gave itself) or CPU, if one of these ended it
    cpu_s: float  # of the test
    output: bytes
    errors: bytes


def check(job: Job) -> None:
    """Raises InputError where the job is malformed, before anything is run."""
    if job.form not in get_args(Form):
        raise InputError(f"form: saw {job.form!r}, wanted one of {get_args(Form)}")
    if not isinstance(job.source, str):
        raise InputError(f"source: saw {type(job.source).__name__}, wanted text; decode it")
    graders.check(job.form, job.grader)
    check_limits(job.limits)
    if job.form == "call" and not job.entry_point:
        raise InputError("entry_point: saw none in form call, wanted the name of the function to call")
    check_prelude(job.prelude)
    for test in job.tests:
        _input(job, test)
        if job.form == "call":
            parsed(test.output)
    _setup(job, job.tests)


def check_limits(limits: Limits) -> None:
    """Raises InputError where no program could keep one."""
    for name, value, least in (
        ("cpu_s", limits.cpu_s, LEAST_S),
        ("wall_s", limits.wall_s, LEAST_S),
        ("memory_mb", limits.memory_mb, LEAST_MB),
    ):
        if value < least:
            raise InputError(f"limit {name}: saw {value}, which no program keeps; wanted {least} or more")


@functools.lru_cache
def check_prelude(text: str) -> None:
    """Raises InputError where a prelude does not compile, which would be no program's fault."""
    try:
        compile(text, "<prelude>", "exec", dont_inherit=True)
    except setups.NOT_PYTHON as error:
        raise InputError(f"a prelude is not Python ({error}): {text[:80]!r}; fix the problem file") from error


def with_room(job: Job) -> Job:
    """The job with a cap on output of at least twice what its tests expect, under which a right program can
    pass."""
    most = max((_expected_bytes(job, test) for test in job.tests), default=0)
    room = max(job.limits.output_bytes, LEAST_OUTPUT + 2 * most)
    if room == job.limits.output_bytes:
        return job
    return dataclasses.replace(job, limits=dataclasses.replace(job.limits, output_bytes=room))


def _expected_bytes(job: Job, test: TestCase) -> int:
    """What a right program says on a test, in bytes as they cross; 0 where it is far below the cap."""
    text = test.input if job.form == "assertion" else test.output
    if LONGEST_CHARACTER * len(text) < job.limits.output_bytes // 2:
        return 0
    if job.form == "stdin":
        return len(text.encode("utf-8", "surrogatepass"))
    if job.form == "call":
        return _encoded_bytes(parsed(text))
    rewritten = assertions.rewrite(text, job.entry_point, job.setup)
    values_bytes = sum(_encoded_bytes(value) for _, value in rewritten.expected)
    return values_bytes + LONGEST_CHARACTER * len(rewritten.block)  # which holds what it expects


def _encoded_bytes(value: Any) -> int:
    return len(json.dumps(values.encode(value)))


def payload(
    job: Job, tests: tuple[TestCase, ...], *, sealed: bool, max_threads: int, forks_ahead: int = 1
) -> Iterator[bytes]:
    """What the child may know, piece by piece: everything but the expected outputs, and the tests that hold
    them. The inputs come first, for their reader takes one at a time, then all else and its length."""
    sizes = []
    for test in tests:
        data = _input(job, test).encode("utf-8", "surrogatepass")
        sizes.append(len(data))
        yield data
    rest = marshal.dumps(  # which is read with fewer pages touched than JSON
        {
            "source": job.source,
            "form": job.form,
            "entry_point": job.entry_point,
            "setup": _setup(job, tests).shown,
            "prelude": job.prelude,
            "sizes": sizes,
            "checked": bool(_blocks(job, tests)),
            "cpu_s": job.limits.cpu_s,
            "wall_s": job.limits.wall_s,
            "memory_bytes": job.limits.memory_mb << 20,
            "output_bytes": job.limits.output_bytes,
            "total_bytes": most_bytes(job, tests),
            "sealed": sealed,
            "max_threads": max_threads,
            "forks_ahead": forks_ahead,
        }
    )
    yield rest
    yield LENGTH.pack(len(rest))


def most_bytes(job: Job, tests: tuple[TestCase, ...]) -> int:
    """What a program may say on all tests together: a fixed part, and what a right one says."""
    texts = (test.input if job.form == "assertion" else test.output for test in tests)
    # Generous, for this bounds what is stored; what is read of it at once is one output.
    expected = sum(LEAST_OUTPUT + 2 * LONGEST_CHARACTER * len(text) for text in texts)
    return max(MOST_BYTES, job.limits.output_bytes) + expected


def checks(job: Job, tests: tuple[TestCase, ...]) -> bytes:
    """What a checker may know beside that: the tests that cannot be rewritten, the names in each that are the
    candidate's, and of the setup what can do without the candidate."""
    blocks = _blocks(job, tests)
    if not blocks:
        return b""
    setup, name = _setup(job, tests).kept, job.entry_point
    found = {}
    for index, text in blocks.items():
        own = {name} & set(setups.free_names(text, name))  # also where the setup has one in its name
        names = sorted(own.union(setups.free_names(f"{setup}\n{text}", name)))
        found[str(index)] = {"text": text, "names": names}
    return json.dumps({"setup": setup, "blocks": found}).encode()


def _setup(job: Job, tests: tuple[TestCase, ...]) -> setups.Setup:
    if job.form != "assertion" or job.grader in graders.BELIEVED:
        return setups.whole(job.setup, overwrites=job.form == "assertion")
    found = [assertions.rewrite(test.input, job.entry_point, job.setup) for test in tests]
    questions = tuple(step.get("value") or step["truth"] for test in found for step in test.steps)
    blocks = tuple(test.block for test in found if test.block)
    return setups.divided(job.setup, job.entry_point, questions, blocks)


def _blocks(job: Job, tests: tuple[TestCase, ...]) -> dict[int, str]:
    if job.form != "assertion" or job.grader in graders.BELIEVED:
        return {}
    found = (
        (i, assertions.rewrite(test.input, job.entry_point, job.setup).block) for i, test in enumerate(tests)
    )
    return {index: text for index, text in found if text}


def _input(job: Job, test: TestCase) -> str:
    if job.form == "assertion":
        believed = job.grader in graders.BELIEVED
        rewritten = assertions.rewrite(test.input, job.entry_point, job.setup)
        return json.dumps([{"block": test.input}] if believed else rewritten.steps)
    if job.form == "call" and not isinstance(parsed(test.input), list | tuple):
        raise InputError(f"a call-form input must be a list of arguments, got {test.input[:80]!r}")
    return test.input


def records(data: bytes) -> Iterator[Record]:
    """The records in order. Raises Incomplete on a torn one."""
    return _records(lambda at, size: data[at : at + size], len(data))


def records_in(file: int) -> Iterator[Record]:
    """Those of a file, one of them in memory at a time."""
    start, window = 0, b""

    def read(at: int, size: int) -> bytes:
        nonlocal start, window
        if not start <= at <= at + size <= start + len(window):
            start, window = at, os.pread(file, max(size, WINDOW), at)
        return window[at - start : at - start + size]

    return _records(read, os.fstat(file).st_size)


def _records(read: Callable[[int, int], bytes], size: int) -> Iterator[Record]:
    at = 0
    while at < size:
        data = read(at, RECORD.size)
        if len(data) < RECORD.size:
            raise Incomplete("a torn record")
        *head, n_output, n_errors = RECORD.unpack(data)
        if at + RECORD.size + n_output + n_errors > size:
            raise Incomplete("a torn record")
        output = read(at + RECORD.size, n_output)
        errors = read(at + RECORD.size + n_output, n_errors)
        yield Record(*head, output, errors)
        at += RECORD.size + n_output + n_errors
