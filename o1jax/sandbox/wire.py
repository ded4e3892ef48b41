"""What crosses to the child and back: the job without its expected outputs, and the records.

Says nothing of what a record is worth (verdicts.py). The other end is jail/program.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import NamedTuple

from o1jax.records import InputError, TestCase
from o1jax.sandbox import assertions
from o1jax.sandbox.interface import Job
from o1jax.sandbox.literals import parsed

RECORD = struct.Struct("<ciiidII")  # as in jail/program.py


class Incomplete(RuntimeError):
    """The records end too early or make no sense: an infrastructure failure."""


class Record(NamedTuple):
    kind: bytes
    first: int
    status: int
    over_wall: int
    cpu_s: float
    output: bytes
    errors: bytes


def check(job: Job) -> None:
    """Raises InputError where a test is malformed, before anything is run."""
    for test in job.tests:
        _input(job, test)
        if job.form == "call":
            parsed(test.output)


def payload(job: Job, tests: tuple[TestCase, ...], *, sealed: bool, max_threads: int) -> bytes:
    """What the child may know: everything but the expected outputs."""
    return json.dumps(
        {
            "source": job.source,
            "form": job.form,
            "entry_point": job.entry_point,
            "setup": job.setup,
            "inputs": [_input(job, test) for test in tests],
            "cpu_s": job.limits.cpu_s,
            "wall_s": job.limits.wall_s,
            "memory_bytes": job.limits.memory_mb << 20,
            "output_bytes": job.limits.output_bytes,
            "sealed": sealed,
            "max_threads": max_threads,
        }
    ).encode()


def _input(job: Job, test: TestCase) -> str:
    if job.form == "assertion":
        return json.dumps(assertions.rewrite(test.input).steps)
    if job.form == "call" and not isinstance(parsed(test.input), list | tuple):
        raise InputError(f"a call-form input must be a list of arguments, got {test.input[:80]!r}")
    return test.input


def records(data: bytes) -> Iterator[Record]:
    """The records in order. Raises Incomplete on a torn one."""
    at = 0
    while at < len(data):
        if at + RECORD.size > len(data):
            raise Incomplete("a torn record")
        *head, n_output, n_errors = RECORD.unpack_from(data, at)
        middle = at + RECORD.size + n_output
        yield Record(*head, data[at + RECORD.size : middle], data[middle : middle + n_errors])
        at = middle + n_errors
