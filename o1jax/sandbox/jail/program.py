"""One program's process: compiles the source, then forks one execution a test (stdin form) or one
for all tests (call and assertion form), and measures them.

Runs no candidate code itself. Records go to a file in memory that no execution can reach.
"""

import json
import math
import os
import resource
import select
import signal
import struct
import time

import kernel
import leaf

# kind, first test, wait status, over wall, cpu seconds, length of output, length of errors
RECORD = struct.Struct("<ciiidII")
KEPT_ERROR_BYTES = 4096


def judge(job_file, result_file):
    """Reads the job, writes records: b"B" before compiling, b"C" compiled or b"E" not, b"T" an execution."""
    job = json.loads(os.pread(job_file, os.fstat(job_file).st_size, 0))
    os.close(job_file)
    write_record(result_file, b"B")
    code, failure = compiled(job)
    write_record(result_file, b"C" if code else b"E", errors=failure.encode("utf-8", "replace"))
    if code is not None:
        (run_each if job["form"] == "stdin" else run_together)(job, code, result_file)


def compiled(job):
    """(code, "") or (None, why). Under the job's limits: source can be a bomb."""
    unlimited = resource.RLIM_INFINITY
    seconds = max(2, math.ceil(job["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], unlimited))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, unlimited))
    try:
        return compile(job["source"], "<program>", "exec", dont_inherit=True), ""
    except Exception as error:  # noqa: BLE001 - whatever untrusted source makes compile() raise
        return None, f"{type(error).__name__}: {error}"[:300]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
        resource.setrlimit(resource.RLIMIT_CPU, (unlimited, unlimited))


def write_record(file, kind, first=0, status=0, wall=0, cpu_s=0.0, output=b"", errors=b""):
    data = RECORD.pack(kind, first, status, wall, cpu_s, len(output), len(errors)) + output + errors
    while data:
        data = data[os.write(file, data) :]


def run_each(job, code, result_file):
    own = os.getpid()
    for index, text in enumerate(job["inputs"]):
        output, errors = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("stdout", "stderr"))
        pid = kernel.fork()
        if pid == 0:
            leaf.become(job, own, (text, output, errors), job["cpu_s"], job["output_bytes"] + 1)
            leaf.run_stdin(code)
        status, wall, cpu_s = watch(pid, job["cpu_s"], job["wall_s"])
        write_record(
            result_file,
            b"T",
            index,
            status,
            wall,
            cpu_s,
            contents(output),
            contents(errors)[-KEPT_ERROR_BYTES:],
        )
        os.close(output)
        os.close(errors)


def run_together(job, code, result_file):
    """All tests in one execution; after a crash the next ones go on in a fresh one, on what is left
    of the time."""
    own, first, spent, end = os.getpid(), 0, 0.0, time.monotonic() + job["wall_s"]
    wall = 0
    while first < len(job["inputs"]) and not wall and spent < job["cpu_s"]:
        found = os.memfd_create("values", os.MFD_CLOEXEC)
        cpu_left = job["cpu_s"] - spent
        pid = kernel.fork()
        if pid == 0:
            leaf.become(job, own, ("", 1, 1, found), cpu_left, job["output_bytes"] * len(job["inputs"]))
            leaf.run_calls(job, code, first)
        status, wall, cpu_s = watch(pid, cpu_left, end - time.monotonic())
        output = contents(found)
        os.close(found)
        write_record(result_file, b"T", first, status, wall, cpu_s, output)
        first += output.count(b"\n") + 1
        spent += cpu_s


def watch(pid, cpu_s, wall_s):
    """Waits for an execution, killing it past its time. Returns (wait status, over wall, CPU seconds)."""
    handle = os.pidfd_open(pid)
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    end = time.monotonic() + wall_s
    used, over_wall = 0.0, 0
    while not poller.poll(1 + 1000 * max(0.0, min(cpu_s - used, end - time.monotonic()))):
        used = kernel.cpu_seconds(pid)
        over_wall = int(time.monotonic() >= end and used < cpu_s)
        if over_wall or used >= cpu_s:
            os.kill(pid, signal.SIGKILL)
            break
    os.close(handle)
    _, status, usage = os.wait4(pid, 0)
    return status, over_wall, max(used, usage.ru_utime + usage.ru_stime)  # rusage rounds down


def contents(file):
    return os.pread(file, os.fstat(file).st_size, 0)
