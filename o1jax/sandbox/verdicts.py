"""From the records of a program's process to one CaseResult a test. Pure: the only judge of an answer.

Trusted here: wait statuses and clocks (the kernel's) and the compile record (written before any
candidate code ran). Everything else in a record is the candidate's word.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from o1jax.records import CaseResult, Status, TestCase
from o1jax.sandbox import assertions, compare, graders
from o1jax.sandbox.interface import Job
from o1jax.sandbox.literals import parsed
from o1jax.sandbox.wire import CPU, OUTPUT, OWN, WALL, Incomplete, Record

CLAIMS = {"RE", "BADVALUE", "NORESULT", "MLE", "OLE"}  # statuses a child may give itself: none passes


def compile_failure(exit_status: int, found: list[Record]) -> str | None:
    """Why the program does not compile, or None if it does. Raises Incomplete where nobody knows."""
    kinds = [record.kind for record in found]
    if kinds[:2] == [b"B", b"E"]:
        return _last_line(found[1].errors)
    if kinds[:2] == [b"B", b"C"]:
        return None
    if kinds == [b"B"] and os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) != signal.SIGKILL:
        return f"the compiler died of {_signal_name(exit_status)}"
    raise Incomplete(f"the program's process ended with {exit_status} and records {kinds}")


def results(job: Job, tests: tuple[TestCase, ...], found: Iterator[Record]) -> Iterator[CaseResult]:
    """One result a test, in order, each as soon as its record is read (those before the tests' are). Raises
    Incomplete where a test has none, or it is another's."""
    made = 0
    while made < len(tests):
        run = next(found, None)
        if run is None or run.first != made:
            raise Incomplete(f"{made} results for {len(tests)} tests")
        if run.kind == b"S":
            yield from itertools.repeat(_not_run(run), len(tests) - made)
            return
        yield _result(job, tests[made], run)
        made += 1


def killed_from_outside(job: Job, run: Record) -> bool:
    """Whether an execution died of SIGKILL, which it cannot send itself, while it had time left."""
    died = _died_of(run.status, signal.SIGKILL)
    return died and run.over == 0 and run.cpu_s < job.limits.cpu_s


def _result(job: Job, test: TestCase, run: Record) -> CaseResult:
    if run.kind == b"A":
        late = run.cpu_s >= job.limits.cpu_s
        return CaseResult(Status.TLE, "CPU time", run.cpu_s) if late else _answer(job, test, run)
    failure = _ended_badly(job, run)
    if failure is None and job.form == "stdin":
        return _stdin_result(job, test, run)
    return CaseResult(*(failure or (Status.NORESULT, "exited early")), run.cpu_s)


def _not_run(run: Record) -> CaseResult:
    if run.over == OUTPUT:
        return CaseResult(Status.OLE, "not run: all that one program may say was said before")
    return CaseResult(Status.TLE, "not run: too many tests before ran out of time")


def _stdin_result(job: Job, test: TestCase, run: Record) -> CaseResult:
    output = run.output.decode("utf-8", "replace") if job.keep_output else None
    return CaseResult(*graders.grade_stdout(job.grader, test.output, run.output), run.cpu_s, output)


def _ended_badly(job: Job, run: Record) -> tuple[Status, str] | None:
    """The status that the clock, the output's size or the exit status decides, if one does."""
    if run.over == WALL:
        return Status.TLE, "wall time"
    if run.over == CPU or run.cpu_s >= job.limits.cpu_s or _died_of(run.status, signal.SIGXCPU):
        return Status.TLE, "CPU time"
    if run.over == OUTPUT:
        return Status.OLE, f"more than {job.limits.output_bytes} bytes"
    if run.over == OWN:
        return Status.RE, "SIGKILL, by a time limit that it gave itself"
    if os.WIFSIGNALED(run.status):
        outside = _died_of(run.status, signal.SIGKILL)
        return Status.RE, "killed from outside" if outside else _signal_name(run.status)
    if run.status:
        detail = _last_line(run.errors) or f"exit status {os.WEXITSTATUS(run.status)}"
        return (Status.MLE if detail.startswith("MemoryError") else Status.RE), detail
    return None


def _answer(job: Job, test: TestCase, run: Record) -> CaseResult:
    line, cpu_s = run.output, run.cpu_s
    try:
        said = json.loads(line)
        if type(said) is dict and "v" in said:
            right = _right(job, test, said["v"])
            detail = "" if right else f"got {line[6:-1][:84].decode('ascii', 'replace')}"
            return CaseResult(Status.AC if right else Status.WA, detail, cpu_s)
    except (ValueError, RecursionError):  # no encoder of ours wrote that
        said = None
    # What is left is a failure that the child reports of itself.
    claim = said.get("e") if type(said) is dict else None
    if type(claim) is not str or claim not in CLAIMS:
        return CaseResult(Status.NORESULT, "unreadable answer", cpu_s)
    detail = str(said.get("d", ""))[:300].encode("utf-8", "backslashreplace").decode()
    if job.form == "assertion" and detail.startswith("AssertionError"):
        return CaseResult(Status.WA, detail, cpu_s)
    return CaseResult(Status(claim), detail, cpu_s)


def _right(job: Job, test: TestCase, got: Any) -> bool:
    if job.form == "call":
        return graders.same_value(job.grader, parsed(test.output), got, json_values=job.json_values)
    if job.grader in graders.BELIEVED:
        return got == [True]
    expected = assertions.rewrite(test.input, job.entry_point, job.setup).expected
    if type(got) is not list or len(got) != len(expected):
        return False
    return all(compare.meets(*wanted, value) for wanted, value in zip(expected, got, strict=True))


def _died_of(status: int, number: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == number


def _signal_name(status: int) -> str:
    number = os.WTERMSIG(status)
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _last_line(errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""
